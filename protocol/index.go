package protocol

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Limits of a page of the index and of the catalog, in releases.
const (
	MaxIndexLimit   = 2000
	MaxCatalogSize  = 10000
	DefaultPageSize = 1000
	maxCatalogToken = 2 << 10
)

// ParseIndexQuery reads since (RFC 3339; zero time if absent) and limit (1 to
// MaxIndexLimit, larger ones are cut to it; MaxIndexLimit if absent).
func ParseIndexQuery(q url.Values) (since time.Time, limit int, err error) {
	if s := q.Get("since"); s != "" {
		if since, err = time.Parse(time.RFC3339, s); err != nil {
			return since, 0, Errorf(http.StatusBadRequest, "bad request: since=%.60q: want a time like 2006-01-02T15:04:05Z", s)
		}
	}
	limit, err = pageSize(q, "limit", MaxIndexLimit, MaxIndexLimit)
	return since, limit, err
}

// ParseCatalogQuery reads token (opaque; empty for the first page) and pagesize
// (1 to MaxCatalogSize, larger ones are cut to it; DefaultPageSize if absent).
func ParseCatalogQuery(q url.Values) (token string, size int, err error) {
	token = q.Get("token")
	if len(token) > maxCatalogToken || !isGraphic(token) {
		return "", 0, Errorf(http.StatusBadRequest, "bad request: token=%.60q was never handed out", token)
	}
	size, err = pageSize(q, "pagesize", DefaultPageSize, MaxCatalogSize)
	return token, size, err
}

func pageSize(q url.Values, key string, absent, most int) (int, error) {
	s := q.Get(key)
	if s == "" {
		return absent, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n == 0 {
		return 0, Errorf(http.StatusBadRequest, "bad request: %s=%.60q: want a number from 1 to %d", key, s, most)
	}
	return min(int(n), most), nil
}

// index answers /index. A page is at most MaxIndexLimit lines, so that it is
// put together in memory and an error halfway is still an error to the client.
func (h *handler) index(w *writer, r *http.Request) {
	since, limit, err := ParseIndexQuery(r.URL.Query())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	var page bytes.Buffer
	lines := json.NewEncoder(&page)
	lines.SetEscapeHTML(false)
	for entry, err := range h.backend.Index(r.Context(), since, limit) {
		if err == nil {
			err = lines.Encode(entry)
		}
		if err != nil {
			h.fail(w, r, err)
			return
		}
		if limit--; limit == 0 {
			break
		}
	}
	h.answer(w, r, meta{ndjsonType, h.mutable}, &Answer{Data: page.Bytes()})
}

// catalogPage is the body of /catalog, in the shape that Athens gives it.
type catalogPage struct {
	Modules []CatalogEntry `json:"modules"`
	Next    string         `json:"next,omitempty"`
}

func (h *handler) catalog(w *writer, r *http.Request) {
	token, size, err := ParseCatalogQuery(r.URL.Query())
	if err != nil {
		h.fail(w, r, err)
		return
	}
	entries, next, err := h.backend.Catalog(r.Context(), token, size)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if entries == nil {
		entries = []CatalogEntry{} // a list, even where there is nothing to list
	}
	page, err := json.Marshal(catalogPage{entries, next})
	if err != nil {
		h.fail(w, r, err)
		return
	}
	h.answer(w, r, meta{jsonType, h.mutable}, &Answer{Data: append(page, '\n')})
}
