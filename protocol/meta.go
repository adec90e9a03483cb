package protocol

import (
	"strconv"
	"strings"
	"time"

	"github.com/meshproxy/meshproxy/verify"
)

// meta is what the headers of an answer say of the kind of request. The values
// are made once and shared by all answers: nothing may write to them.
type meta struct {
	contentType  []string
	cacheControl []string
}

var (
	textPlain   = []string{"text/plain; charset=utf-8"}
	jsonType    = []string{"application/json"}
	zipType     = []string{"application/zip"}
	octetStream = []string{"application/octet-stream"}
	ndjsonType  = []string{"application/x-ndjson"}

	immutable = []string{"public, max-age=31536000, immutable"}
	noStore   = []string{"no-store"}
	nosniff   = []string{"nosniff"}
)

// maxAge is the Cache-Control of an answer that may change.
func maxAge(d time.Duration) []string {
	return []string{"public, max-age=" + strconv.FormatInt(int64(d/time.Second), 10)}
}

func (h *handler) meta(req Request) meta {
	switch req.Op {
	case OpFile:
		return meta{fileType(req.Name.Kind), immutable}
	case OpQuery, OpLatest:
		return meta{jsonType, h.mutable}
	case OpSumDB:
		if strings.HasPrefix(req.Sub, "tile/") {
			return meta{octetStream, immutable}
		}
	}
	return meta{textPlain, h.mutable}
}

func fileType(k verify.Kind) []string {
	switch k {
	case verify.Info:
		return jsonType
	case verify.Zip:
		return zipType
	}
	return textPlain
}
