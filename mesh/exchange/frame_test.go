package exchange

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestFrames reads frames of every size with the memory that a reader allows them.
func TestFrames(t *testing.T) {
	for _, size := range []int{0, 1, 100, zstd.MinWindowSize - 1, zstd.MinWindowSize, zstd.MinWindowSize + 1, minFrameWindow - 1, minFrameWindow, minFrameWindow + 1, 3 * minFrameWindow, maxFrameWindow, maxFrameWindow + 1} {
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

// TestFramesWithDictionary reads frames around the size of the least window, with
// dictionaries that are shorter and longer than the content.
func TestFramesWithDictionary(t *testing.T) {
	var text []byte
	for i := 0; len(text) < 2*wellDiffed; i++ {
		text = fmt.Appendf(text, "line %x\n", i*7919)
	}
	for _, dict := range []int{10, zstd.MinWindowSize, 2 * wellDiffed} {
		for size := zstd.MinWindowSize - 1; size <= zstd.MinWindowSize+1; size++ {
			t.Run(fmt.Sprintf("%d bytes from %d", size, dict), func(t *testing.T) {
				frame, err := packFrame(text[:size], text[:dict], zstd.SpeedFastest)
				if err != nil {
					t.Fatal(err)
				}
				got, err := unpackFrame(frame, text[:dict], uint64(size))
				if err != nil || !bytes.Equal(got, text[:size]) {
					t.Fatalf("a frame of %d bytes: %d bytes, %v", len(frame), len(got), err)
				}
			})
		}
	}
}
