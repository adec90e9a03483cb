package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/meshproxy/meshproxy/store"
	"github.com/meshproxy/meshproxy/verify"
)

// maxDatabases bounds the checksum databases of one node.
const maxDatabases = 16

// ParseSumDB reads Config.SumDB: specifications as package verify has them, with
// ";" between them. "off", alone, is none. Those without patterns of their own come
// last, since they cover all that is left.
func ParseSumDB(list string) ([]verify.Spec, error) {
	var specs []verify.Spec
	for text := range strings.SplitSeq(list, ";") {
		if strings.TrimSpace(text) == "" {
			continue
		}
		s, err := verify.ParseSpec(text)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(specs, func(have verify.Spec) bool { return have.Name == s.Name || have.Off || s.Off }) {
			if s.Off || specs[0].Off {
				return nil, fmt.Errorf("checksum databases %q: off stands alone", list)
			}
			return nil, fmt.Errorf("checksum database %s is given twice", s.Name)
		}
		specs = append(specs, s)
	}
	if len(specs) == 0 || len(specs) > maxDatabases {
		return nil, fmt.Errorf("checksum databases %.200q: want off, or 1 to %d of them", list, maxDatabases)
	}
	if specs[0].Off {
		return nil, nil
	}
	slices.SortStableFunc(specs, func(a, b verify.Spec) int {
		return strings.Compare(order(a), order(b))
	})
	return specs, nil
}

func order(s verify.Spec) string {
	if s.Only == "" {
		return "last"
	}
	return "first"
}

// openDatabases makes the clients of the checksum databases.
func (n *Node) openDatabases(context.Context) error {
	specs, err := ParseSumDB(n.cfg.SumDB)
	if err != nil {
		return &ConfigError{"sumdb", err}
	}
	var keys []string
	for _, spec := range specs {
		offices := newOfficeSources(spec.Name, n)
		sources := append([]verify.Source{{Name: sourceUpstream, Remote: sumdbUpstream{spec.Name, n.upstreams}}}, offices.sources()...)
		if n.isOff() {
			// An office without an upstream often has no way out at all. A firewall that
			// says nothing would cost the first lookup of each half minute ten seconds.
			sources = append(sources[1:], sources[0])
		}
		db, err := verify.NewDatabase(verify.DatabaseOptions{
			Spec: spec, Cache: n.store.SumDB(), Log: n.log,
			Sources: sources, Recorded: n.recordedProof(spec.Name),
			OnFork:   func(verify.Fork) { n.counts.forks.Add(1) },
			OnReject: func(source string, err error) { n.rejected(spec.Name, offices, source, err) },
		})
		if err != nil {
			return err
		}
		n.databases = append(n.databases, db)
		keys = append(keys, spec.Key)
	}
	return n.store.SetMeta(databasesKey, []byte(strings.Join(keys, "\n")))
}

// recordedProof finds a database's proof about a module version in the records that
// are held.
func (n *Node) recordedProof(database string) func(module.Version) *verify.Proof {
	return func(m module.Version) *verify.Proof {
		for _, kind := range []verify.Kind{verify.Mod, verify.Zip} {
			signed, err := n.store.Record(verify.Name{Module: m, Kind: kind})
			if err == nil && signed.Record.Vouch.Proof != nil && signed.Record.Vouch.Database == database {
				return signed.Record.Vouch.Proof
			}
		}
		return nil
	}
}

const sourceUpstream = "upstream"

// rejected is told of a source that sent what does not check.
func (n *Node) rejected(database string, offices *officeSources, source string, err error) {
	n.counts.rejected.Add(1)
	p, ok := offices.peer(source)
	if !ok {
		n.log.Error("an upstream sent what the checksum database did not say", "database", database,
			"upstreams", n.upstreams.String(), "err", err)
		return
	}
	n.exchange().Blame(p, fmt.Errorf("as checksum database %s: %w", database, err))
}

// databasesKey is where the keys of the checksum databases are kept, for commands
// on a node that does not run.
const databasesKey = "node/databases"

// savedDatabases are the databases of the last run, as far as their caches go.
func savedDatabases(s *store.Store) ([]*verify.Database, error) {
	text, err := s.Meta(databasesKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	var list []*verify.Database
	for _, key := range strings.Fields(string(text)) {
		name, _, _ := strings.Cut(key, "+")
		db, dbErr := verify.NewDatabase(verify.DatabaseOptions{Spec: verify.Spec{Name: name, Key: key}, Cache: s.SumDB()})
		if dbErr != nil {
			return nil, dbErr
		}
		list = append(list, db)
	}
	return list, err
}

// parseHead reads size and hash out of a tree head whose signature was checked.
func parseHead(signed []byte) (size int64, hash tlog.Hash, err error) {
	n, err := note.Open(signed, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if errors.As(err, &unverified) {
		n, err = unverified.Note, nil
	}
	if err != nil {
		return 0, hash, err
	}
	tree, err := tlog.ParseTree([]byte(n.Text))
	return tree.N, tree.Hash, err
}
