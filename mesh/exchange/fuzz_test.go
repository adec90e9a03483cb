package exchange

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/meshproxy/meshproxy/verify"
)

// messages are all that a peer may send.
func messages() []any {
	name := wireName{Path: "example.test/m", Version: "v1.0.0", Kind: "zip"}
	sum := verify.DigestOf(nil)
	return []any{
		&recordsRequest{Full: []wireName{name}, Brief: []wireName{name, name}, Related: true, Known: [][]byte{sum[:], sum[:]}},
		&recordsEntry{Brief: true, Index: 3, Digest: sum[:], Envelope: []byte("e"), Held: true,
			Holders: [][]byte{[]byte("p")}, Fetching: []byte("f"), Related: []wireName{name}, End: true, Same: []byte{1}},
		&pushRecord{Envelope: []byte("e"), Held: true},
		&pushReply{Status: PushConflict, Envelope: []byte("e")},
		&filesOpen{Path: "example.test/m", Version: "v1.0.0", Root: sum[:], Class: Prefetch, Listing: true, Bases: [][]byte{sum[:]}, Diffs: true, Bundles: true, Lead: maxLead},
		&filesOpened{Status: filesReady, Size: 1, Frame: 2, Base: sum[:], Holding: &holding{Whole: true}},
		&filesWant{Files: []uint32{1, 2, 3}, Offset: 4, Tell: true, Whole: true},
		&fileHead{Index: 1, Missing: true, Method: 8, CRC32: 9, Packed: 10, Size: 11, From: 12},
		&fileHead{Packed: 9, Lines: []uint32{1, 2}, Sizes: []uint32{3, 4}},
		&fileHead{Holding: &holding{Have: []byte{1}, Others: [][]byte{[]byte("p")}}},
		&claimRequest{Name: &name, Key: "k", MaxAge: 1, Fetching: true, Tried: [][]byte{[]byte("p")}, Unreached: [][]byte{[]byte("q")}, Probe: true},
		&claimReply{State: claimAnswer, Envelope: []byte("e"), Holders: [][]byte{[]byte("h")}, Value: []byte("v"), At: 1, Code: 404, Text: "t",
			Fetcher: []byte("f"), Progress: 1},
		&claimReport{State: claimAlive, Progress: 1, Envelope: []byte("e"), Value: []byte("v"), At: 1, Code: 404, Text: "t"},
		&answersRequest{Keys: []string{"k"}},
		&answersEntry{Index: 1, Value: []byte("v"), At: 1, End: true},
	}
}

func TestMessagesRoundTrip(t *testing.T) {
	for _, m := range messages() {
		data, err := encode(m)
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(m).Elem()).Interface()
		if err := decode(data, got); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%T: got %+v (%v), want %+v", m, got, err, m)
		}
	}
}

func TestHeadsFitTheirLimit(t *testing.T) {
	sum := verify.DigestOf(nil)
	most := uint64(1<<64 - 1)
	all := &holding{Whole: true, Have: make([]byte, maxHave), Others: slicesOf(make([]byte, maxPeerID), maxHolders)}
	for m, limit := range map[any]int{
		&fileHead{Index: 1<<32 - 1, Missing: true, Method: 1<<16 - 1, CRC32: 1<<32 - 1, Packed: most, Size: most, Holding: all, From: 1<<32 - 1,
			Lines: slicesOf(uint32(1<<32-1), maxBundled), Sizes: slicesOf(uint32(1<<32-1), maxBundled)}: maxHead,
		&filesOpened{Status: 255, Size: most, Frame: most, Base: sum[:], Holding: all}:               maxOpen,
		&filesWant{Files: slicesOf(uint32(1<<32-1), maxWant), Offset: most, Tell: true, Whole: true}: maxWantMsg,
	} {
		if data, err := encode(m); err != nil || len(data) > limit {
			t.Errorf("%T takes %d bytes (%v), %d allowed", m, len(data), err, limit)
		}
	}
}

func slicesOf[T any](v T, n int) []T {
	s := make([]T, n)
	for i := range s {
		s[i] = v
	}
	return s
}

func FuzzDecode(f *testing.F) {
	for i, m := range messages() {
		data, err := encode(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), data)
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		all := messages()
		v := reflect.New(reflect.TypeOf(all[int(which)%len(all)]).Elem()).Interface()
		if decode(data, v) != nil {
			return
		}
		again, err := encode(v)
		if err != nil {
			t.Fatalf("%T decoded from %x does not encode: %v", v, data, err)
		}
		twice := reflect.New(reflect.TypeOf(v).Elem()).Interface()
		if err := decode(again, twice); err != nil {
			t.Fatalf("%T does not round trip: %v", v, err)
		}
		third, err := encode(twice)
		if err != nil || !bytes.Equal(third, again) {
			t.Fatalf("%T has two encodings: %x and %x", v, again, third)
		}
		use(v)
	})
}

// use calls what judges a message after it was decoded.
func use(v any) {
	switch m := v.(type) {
	case *claimRequest:
		m.check()
	case *claimReply:
		m.claim(claimed{key: "k"})
		peersOf(m.Holders)
		timeOf(m.At)
	case *recordsEntry:
		h := heard{entry: m}
		h.check([]Found{{}}, &question{full: []int{0}, brief: []int{0}})
	}
}

func FuzzUnpackListing(f *testing.F) {
	text := listingOf(50).Encode()
	base := listingOf(40).Encode()
	plain, err := packListing(text, nil)
	if err != nil {
		f.Fatal(err)
	}
	diff, err := packListing(text, base)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain, []byte(nil), uint64(len(text)))
	f.Add(diff, base, uint64(len(text)))
	f.Fuzz(func(t *testing.T, frame, dict []byte, size uint64) {
		size %= 1 << 20
		got, err := unpackListing(frame, dict, size)
		if err == nil && uint64(len(got)) > max(size, 1) {
			t.Fatalf("%d bytes where at most %d were announced", len(got), size)
		}
	})
}

func TestListingsTravelAsDifferences(t *testing.T) {
	base, text := listingOf(1000).Encode(), listingOf(1003).Encode()
	plain, err := packListing(text, nil)
	if err != nil {
		t.Fatal(err)
	}
	diff, err := packListing(text, base)
	if err != nil {
		t.Fatal(err)
	}
	got, err := unpackListing(diff, base, uint64(len(text)))
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("a listing packed with a dictionary comes out as %d bytes, %v", len(got), err)
	}
	if len(diff) > len(plain)/20 {
		t.Errorf("three more files take %d bytes, the whole %d", len(diff), len(plain))
	}
	if _, err := unpackListing(diff, nil, uint64(len(text))); err == nil {
		t.Error("unpacked without the dictionary")
	}
}
