package verify

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
)

// maxElements bounds every array and map in what this package decodes, save
// lists of pins, which have a bound of their own.
const maxElements = 64

// encMode writes core deterministic CBOR (RFC 8949, 4.2.1): a value has one
// encoding, so that signatures and comparisons are over bytes.
var encMode = must(cbor.CoreDetEncOptions().EncMode())

// decMode refuses whatever core deterministic encoding never writes and whatever
// could make a small message expensive.
var decMode = must(strictDecoding(maxElements).DecMode())

func strictDecoding(elements int) cbor.DecOptions {
	return cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		MaxNestedLevels:   8,
		MaxArrayElements:  elements,
		MaxMapPairs:       maxElements,
	}
}

// decodeExact decodes data into the value that v points to and refuses any
// encoding but the one that encMode writes.
func decodeExact(mode cbor.DecMode, data []byte, v any) error {
	if err := mode.Unmarshal(data, v); err != nil {
		return err
	}
	again, err := encMode.Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("not in core deterministic encoding")
	}
	return nil
}

// must is for what can only fail if this package's source is wrong.
func must[T any](v T, err error) T {
	if err != nil {
		panic("package verify: " + err.Error())
	}
	return v
}
