package exchange

import (
	"context"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"

	"github.com/meshproxy/meshproxy/verify"
)

// maxRelatedBytes bounds the go.mod bytes that are parsed to answer one request.
const maxRelatedBytes = 8 << 20

// answerRecords is the answerer's side of RecordsID.
func (x *Exchange) answerRecords(ctx context.Context, from peer.ID, l *link) error {
	var req recordsRequest
	if err := l.recv(&req, maxRequest); err != nil {
		return err
	}
	x.joinTrace(ctx, from, l, req.Trace)
	if n := len(req.Full) + len(req.Brief); n > maxNames {
		return fmt.Errorf("%d names in a request: at most %d allowed", n, maxNames)
	}
	if len(req.Known) > 0 {
		same, err := x.offered(from, &req)
		if err != nil {
			return err
		}
		return l.send(&recordsEntry{End: true, Same: same}, maxEntry)
	}
	var mods []*verify.Signed
	for i, w := range req.Full {
		s, err := x.answerName(l, from, i, w, false)
		if err != nil {
			return err
		}
		if req.Related && s != nil && s.Record.Name.Kind == verify.Mod {
			mods = append(mods, s)
		}
	}
	for i, w := range req.Brief {
		s, err := x.answerName(l, from, i, w, true)
		if err != nil {
			return err
		}
		if req.Holding && s != nil {
			x.hears(from, s)
		}
	}
	end := recordsEntry{End: true}
	if len(mods) > 0 {
		// What was asked for goes out before the time that the rest takes.
		if err := l.flush(); err != nil {
			return err
		}
		end.Related = x.related(from, mods, req.Near)
	}
	return l.send(&end, maxEntry)
}

// hears notes that a peer says that it holds what a record is about.
func (x *Exchange) hears(from peer.ID, s *verify.Signed) {
	if s.Record.Name.Kind == verify.Zip && x.holders.add(s.Record.Digest, from) {
		// Who tells a keeper that it holds a zip may be the only one left, and the
		// keeper may have looked before it knew whom to copy from.
		x.repair.arrived(s.Record.Name)
	}
}

// answerName sends an entry if there is anything to say about the name, and
// returns the record that the entry is about.
func (x *Exchange) answerName(l *link, from peer.ID, index int, w wireName, brief bool) (*verify.Signed, error) {
	n, err := w.name()
	if err != nil {
		return nil, err
	}
	if !x.shares(from, n.Module.Path) {
		return nil, nil
	}
	e := recordsEntry{Brief: brief, Index: uint32(index)}
	if p := x.desk.fetcher(claimKey(n)); p != "" {
		e.Fetching = []byte(p)
	}
	s, err := x.cfg.Backend.Record(n)
	if err != nil { // not here, or not readable: to the asker the same
		if e.Fetching == nil {
			return nil, nil
		}
		return nil, l.send(&e, maxEntry)
	}
	d := s.Record.Digest
	e.Digest = d[:]
	if !brief {
		e.Envelope = s.Envelope
	}
	if n.Kind == verify.Zip {
		e.Held = x.holds(d)
		e.Holders = rawPeers(slices.DeleteFunc(slices.Clone(x.holders.of(d)), func(p peer.ID) bool {
			return !x.cfg.Members.IsMember(p)
		}))
	} else {
		e.Held = true
	}
	return s, l.send(&e, maxEntry)
}

// related lists the go.mod files that mods require, directly or through others
// held here, as far as this node holds them and shares them with the peer; with near,
// first those that came about when the first of mods did.
func (x *Exchange) related(with peer.ID, mods []*verify.Signed, near bool) []wireName {
	seen := map[module.Version]bool{}
	for _, s := range mods {
		seen[s.Record.Name.Module] = true
	}
	var names []wireName
	budget := maxRelatedBytes
	if near && x.cfg.Near != nil {
		came := x.cfg.Near(mods[0].Record.Name, maxNear)
		for _, m := range came[:min(len(came), maxNear)] {
			// That its go.mod is among what came is not looked up: it nearly always is.
			if n, ok := x.relatable(with, m, seen); ok {
				names = append(names, toWire(n))
			}
		}
	}
	for len(mods) > 0 && len(names) < maxRelated {
		data := mods[0].Record.Data
		mods = mods[1:]
		if budget -= len(data); budget < 0 {
			break
		}
		for _, m := range requirements(data) {
			if len(names) == maxRelated {
				break
			}
			n, ok := x.relatable(with, m, seen)
			if !ok {
				continue
			}
			if s, err := x.cfg.Backend.Record(n); err == nil {
				names = append(names, toWire(n))
				mods = append(mods, s)
			}
		}
	}
	return names
}

// relatable returns the name of the go.mod of m, if it was not seen before and a peer
// may learn of it.
func (x *Exchange) relatable(with peer.ID, m module.Version, seen map[module.Version]bool) (n verify.Name, ok bool) {
	n = verify.Name{Module: m, Kind: verify.Mod}
	if seen[m] || n.Check() != nil || !x.shares(with, m.Path) {
		return n, false
	}
	seen[m] = true
	return n, true
}

// requirements reads the require directives of a go.mod; a file that does not
// parse requires nothing.
func requirements(gomod []byte) []module.Version {
	f, err := modfile.ParseLax("go.mod", gomod, nil)
	if err != nil {
		return nil
	}
	var list []module.Version
	for _, r := range f.Require {
		list = append(list, r.Mod)
	}
	return list
}
