package exchange

import (
	"fmt"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/meshproxy/meshproxy/verify"
)

// dictionary is the number under which the dictionary of a frame goes.
const dictionary = 1

// maxFrameWindow is the largest window of a frame, in bytes.
const maxFrameWindow = 16 << 20

// packFrame compresses content into one zstd frame, with dict, which may be empty, as
// a dictionary of raw content. All of both is in the frame's window, up to
// maxFrameWindow.
func packFrame(content, dict []byte, level zstd.EncoderLevel) ([]byte, error) {
	window := max(zstd.MinWindowSize, min(1<<bits.Len(uint(len(content)+len(dict))), maxFrameWindow))
	if len(dict) > 0 {
		enc, err := newPacker(level, window, zstd.WithEncoderDictRaw(dictionary, dict))
		if err != nil {
			return nil, fmt.Errorf("compress %d bytes: %w", len(content), err)
		}
		defer enc.Close()
		return enc.EncodeAll(content, nil), nil
	}
	window = max(window, minFrameWindow)
	pool, _ := packers.LoadOrStore(packer{level, window}, new(sync.Pool))
	enc, ok := pool.(*sync.Pool).Get().(*zstd.Encoder)
	if !ok {
		var err error
		if enc, err = newPacker(level, window); err != nil {
			return nil, fmt.Errorf("compress %d bytes: %w", len(content), err)
		}
	}
	defer pool.(*sync.Pool).Put(enc)
	return enc.EncodeAll(content, nil), nil
}

// minFrameWindow is the smallest window without a dictionary, in bytes. What is smaller than
// its window is told as one segment, for which a reader needs no more than its size.
const minFrameWindow = 1 << 20

// packers has a sync.Pool of *zstd.Encoder for each packer: one of them has tables of a
// megabyte, which costs more to make than most content to compress. Those with a
// dictionary are of use once.
var packers sync.Map

type packer struct {
	level  zstd.EncoderLevel
	window int
}

func newPacker(level zstd.EncoderLevel, window int, more ...zstd.EOption) (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, append(more, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(level),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(window))...)
}

// unpackFrame reads what packFrame wrote. The content has at most size bytes, which
// the caller must have found small enough.
func unpackFrame(frame, dict []byte, size uint64) ([]byte, error) {
	// The decoder cuts its window to the memory that it may take, and refuses frames
	// with a larger one. Content of exactly the least window there is goes in one of
	// twice that.
	opts := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(max(size, 2*zstd.MinWindowSize)),
		zstd.WithDecoderMaxWindow(maxFrameWindow)}
	if len(dict) > 0 {
		opts = append(opts, zstd.WithDecoderDictRaw(dictionary, dict))
	}
	dec, err := zstd.NewReader(nil, opts...)
	if err != nil {
		return nil, fmt.Errorf("inflate a frame: %w", err)
	}
	defer dec.Close()
	content, err := dec.DecodeAll(frame, nil)
	if err != nil {
		return nil, fmt.Errorf("inflate a frame of %d bytes: %w", len(frame), err)
	}
	if uint64(len(content)) > size {
		return nil, fmt.Errorf("inflate a frame: %d bytes where %d were announced", len(content), size)
	}
	return content, nil
}

// packListing compresses a listing, with another one as a dictionary.
func packListing(text, dict []byte) ([]byte, error) { return packFrame(text, dict, zstd.SpeedDefault) }

// unpackListing reads what packListing wrote; size is what the peer said.
func unpackListing(frame, dict []byte, size uint64) ([]byte, error) {
	if size > verify.MaxListing {
		return nil, fmt.Errorf("listing of %d bytes: at most %d allowed", size, verify.MaxListing)
	}
	return unpackFrame(frame, dict, size)
}
