package node

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// damage is something that Verify found, and what it takes to heal it.
type damage struct {
	Problem
	sum    verify.Digest // of a file or a zip; zero if it is neither
	record verify.Name   // of a release record; zero if it is none
}

// Verify implements Control. It heals what it finds.
func (n *Node) Verify(ctx context.Context, progress func(store.Progress)) (*Verified, error) {
	v, found, err := n.keeper.verify(ctx, progress)
	if err != nil {
		return nil, err
	}
	for i := range found {
		d := &found[i]
		if err := n.healDamage(ctx, d); err != nil {
			d.Note = err.Error()
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d.Healed = n.whole(d)
		v.Problems = append(v.Problems, d.Problem)
	}
	return v, nil
}

func (n *Node) healDamage(ctx context.Context, d *damage) error {
	switch {
	case n.whole(d):
		return nil // a read met it at the same time, and had it healed
	case d.record.Module.Path != "":
		return n.fetchAgain(ctx, d.record)
	case d.sum != verify.Digest{}:
		return n.heal(ctx, d.sum)
	}
	return errors.New("nothing is known that could replace it")
}

// whole reports whether what was damaged can be read again.
func (n *Node) whole(d *damage) bool {
	switch {
	case d.record.Module.Path != "":
		_, err := n.store.Record(d.record)
		return err == nil
	case d.sum != verify.Digest{}:
		return n.store.HasFile(d.sum) || n.store.HasZip(d.sum)
	}
	return false
}

// Verify implements Control. What it finds is healed when the node runs.
func (k *keeper) Verify(ctx context.Context, progress func(store.Progress)) (*Verified, error) {
	v, found, err := k.verify(ctx, progress)
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		v.Problems = append(v.Problems, d.Problem)
	}
	return v, nil
}

// verify reads everything, and names what is damaged, now or from before.
func (k *keeper) verify(ctx context.Context, progress func(store.Progress)) (*Verified, []damage, error) {
	r, err := k.store.Scrub(ctx, store.ScrubOptions{Progress: progress})
	if err != nil {
		return nil, nil, err
	}
	before, err := k.store.Damaged()
	if err != nil {
		return nil, nil, err
	}
	reasons := make(map[verify.Digest]string)
	for _, d := range before {
		reasons[d.Sum] = d.Reason
	}
	var found []damage
	for _, p := range r.Damaged {
		if p.Sum != (verify.Digest{}) {
			reasons[p.Sum] = p.Err.Error()
			continue
		}
		found = append(found, damage{Problem: Problem{File: p.What, Reason: p.Err.Error()}, record: p.Name})
	}
	names, err := k.namesOf(ctx, reasons)
	if err != nil {
		return nil, nil, err
	}
	for sum, reason := range reasons {
		name := names[sum]
		if name == "" {
			name = "sha256:" + sum.Hex()
		}
		found = append(found, damage{Problem: Problem{File: name, Reason: reason}, sum: sum})
	}
	return &Verified{Files: r.Files, Bytes: r.Bytes, Problems: []Problem{}}, found, nil
}

// namesOf finds names by which people know contents: the file of each module that
// has it, up to a few, or the zip itself.
func (k *keeper) namesOf(ctx context.Context, sums map[verify.Digest]string) (map[verify.Digest]string, error) {
	if len(sums) == 0 {
		return nil, nil
	}
	held, err := k.store.Held(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[verify.Digest][]string)
	for _, h := range held {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if _, ok := sums[h.Root]; ok {
			all[h.Root] = append(all[h.Root], fmt.Sprintf("%s.zip (%s)", h.Module, h.Root.H1()))
		}
		text, err := k.store.Listing(h.Root)
		if err != nil {
			continue // damaged itself, and named by its root
		}
		l, err := verify.ParseListing(text)
		if err != nil {
			continue
		}
		for _, f := range l.Files {
			if _, ok := sums[f.Sum]; ok {
				all[f.Sum] = append(all[f.Sum], f.Name)
			}
		}
	}
	names := make(map[verify.Digest]string)
	for sum, list := range all {
		names[sum] = strings.Join(list[:min(len(list), maxNamed)], ", ")
		if more := len(list) - maxNamed; more > 0 {
			names[sum] += fmt.Sprintf(" and %d more", more)
		}
	}
	return names, nil
}
