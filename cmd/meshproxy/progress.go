package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	pretty "github.com/jedib0t/go-pretty/v6/progress"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/meshproxy/meshproxy/store"
)

// progress shows how far something is, with rate and remaining time: as a bar on a
// terminal, else as a line from time to time. It is for one goroutine.
type progress struct {
	w       io.Writer
	name    string
	start   time.Time
	last    time.Time
	bar     *pretty.Tracker // nil: plain lines
	sizes   bool            // what is counted are bytes
	writer  pretty.Writer
	drawing sync.WaitGroup
}

const (
	progressTerminal = 200 * time.Millisecond
	progressPlain    = 10 * time.Second
	progressWidth    = 8 // of the bar, in columns: what stands beside it fits into 80
)

// newProgress begins; end ends it.
func newProgress(c *cli.Context, name string) *progress {
	p := &progress{w: c.App.ErrWriter, name: name, start: time.Now(), last: time.Now()}
	if f, ok := p.w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.draw()
	}
	return p
}

// withProgress shows how far do is, until it ends.
func withProgress[T any](c *cli.Context, name string, do func(func(store.Progress)) (T, error)) (T, error) {
	p := newProgress(c, name)
	result, err := do(p.show)
	p.end(err)
	return result, err
}

func (p *progress) draw() {
	p.bar = &pretty.Tracker{Message: p.name}
	p.writer = pretty.NewWriter()
	p.writer.SetOutputWriter(p.w)
	p.writer.SetUpdateFrequency(progressTerminal)
	p.writer.SetTrackerLength(progressWidth)
	if width := terminalWidth(p.w); width > 0 {
		p.writer.SetTerminalWidth(width)
	}
	p.writer.Style().Options.TimeInProgressPrecision = time.Second
	p.writer.Style().Options.ETAPrecision = time.Second
	p.writer.Style().Visibility = pretty.StyleVisibility{ETA: true, Percentage: true, Tracker: true, Time: true}
	p.writer.AppendTracker(p.bar)
	p.drawing.Go(p.writer.Render)
}

func (p *progress) show(at store.Progress) {
	if p.bar != nil {
		if at.Total > 0 {
			p.bar.UpdateTotal(at.Total)
		}
		p.bar.UpdateMessage(p.text(at))
		p.bar.SetValue(min(at.Done, max(at.Total-1, 0))) // the end is said by end
		return
	}
	if time.Since(p.last) < progressPlain {
		return
	}
	p.last = time.Now()
	text := p.text(at)
	if at.Total > at.Done && at.Done > 0 {
		left := time.Duration(float64(time.Since(p.start)) * float64(at.Total-at.Done) / float64(at.Done))
		text += ", " + left.Round(time.Second).String() + " left"
	}
	fmt.Fprintln(p.w, text)
}

func (p *progress) text(at store.Progress) string {
	text := p.name + ": "
	switch {
	case p.sizes:
	case at.Total > 0:
		text += fmt.Sprintf("%d of %d, ", at.Done, at.Total)
	default:
		text += fmt.Sprintf("%d, ", at.Done)
	}
	rate := float64(at.Bytes) / max(time.Since(p.start), time.Millisecond).Seconds()
	return text + fmt.Sprintf("%s, %s/s", bytesText(at.Bytes), bytesText(int64(rate)))
}

// end leaves the terminal to whoever writes next. err is how it ended.
func (p *progress) end(err error) {
	if p.bar == nil {
		return
	}
	p.bar.UpdateMessage(p.name) // how much it was in the end is the result to say
	if err != nil {
		p.bar.MarkAsErrored()
	} else {
		p.bar.MarkAsDone()
	}
	p.writer.Stop()
	p.drawing.Wait()
}

// errInterrupted is what a long command says that was ended by a signal.
var errInterrupted = errors.New("interrupted; what was done stays, and the same command goes on from there")

// interrupted replaces an error by errInterrupted when a signal caused it.
func interrupted(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	return err
}
