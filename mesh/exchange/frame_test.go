package exchange

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestFrames reads frames of every size with the memory that a reader allows them.
func TestFrames(t *testing.T) {
	for _, size := range []int{0, 1, 100, minFrameWindow - 1, minFrameWindow, minFrameWindow + 1, 3 * minFrameWindow, maxFrameWindow, maxFrameWindow + 1} {
		for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault} {
			t.Run(fmt.Sprintf("%d bytes at %v", size, level), func(t *testing.T) {
				var content []byte
				for i := 0; len(content) < size; i++ {
					content = fmt.Appendf(content, "%x  example.test/m@v1.0.0/file%d.go\n", i*i*7919, i)
				}
				content = content[:size]
				for range 2 { // the second time with an encoder that was used
					frame, err := packFrame(content, nil, level)
					if err != nil {
						t.Fatal(err)
					}
					got, err := unpackFrame(frame, nil, uint64(size))
					if err != nil || !bytes.Equal(got, content) {
						t.Fatalf("a frame of %d bytes: %d bytes, %v", len(frame), len(got), err)
					}
					if size > 100 && len(frame) > size/2 {
						t.Errorf("a frame of %d bytes for %d", len(frame), size)
					}
				}
			})
		}
	}
}
