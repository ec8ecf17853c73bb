package policy

import (
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// The index is a map: the same answers, for what is in it and for what is not,
// in 24 bytes a slot.
func TestIndexIsAMap(t *testing.T) {
	if n := unsafe.Sizeof(slot{}); n != 24 {
		t.Errorf("a slot has %d bytes", n)
	}
	few := rapid.Uint32Range(0, 5)
	cells := rapid.Custom(func(t *rapid.T) cell {
		return cell{few.Draw(t, "a"), few.Draw(t, "b"), few.Draw(t, "c"), uint16(few.Draw(t, "port")), uint8(few.Draw(t, "bits")), uint8(few.Draw(t, "proto"))}
	})
	rapid.Check(t, func(t *rapid.T) {
		model := map[cell]span{}
		for i, k := range rapid.SliceOfN(cells, 0, 200).Draw(t, "cells") {
			model[k] = span{uint32(i), uint32(i) + 1}
		}
		x := newIndex(len(model))
		for k, s := range model {
			x.put(k, s)
		}
		for k, want := range model {
			if got := x.get(k.words()); got != want {
				t.Fatalf("%v: %v; want %v", k, got, want)
			}
		}
		for _, k := range rapid.SliceOfN(cells, 1, 50).Draw(t, "others") {
			if got := x.get(k.words()); got != model[k] {
				t.Fatalf("%v: %v; want %v", k, got, model[k])
			}
		}
	})
}
