package up

import (
	"context"
	"strings"
	"testing"
	"time"
)

// slowTerminal takes its time to print, while other goroutines go on.
type slowTerminal struct{}

func (slowTerminal) Write(p []byte) (int, error) {
	time.Sleep(time.Millisecond)
	return len(p), nil
}

// TestInterruptedWithLinesLeft: what is interrupted ends, also when lines were typed
// ahead that nobody obeys any more.
func TestInterruptedWithLinesLeft(t *testing.T) {
	for range 64 { // which of two things obey sees first is a matter of luck
		ctx, cancel := context.WithCancel(t.Context())
		r := &room{Config: Config{Prompt: true}, out: slowTerminal{}}
		done := make(chan error, 1)
		go func() { done <- r.obey(ctx, strings.NewReader("sleep 1h\nhelp\nhelp\n")) }()
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("it goes on")
		}
	}
}
