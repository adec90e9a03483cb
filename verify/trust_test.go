package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/libp2p/go-libp2p/core/peer"
	"golang.org/x/mod/module"
)

var (
	private   = module.Version{Path: "corp.test/secret", Version: "v1.0.0"}
	toolchain = module.Version{Path: toolchainPath, Version: "v0.0.1-go1.30.0.linux-amd64"}
)

// testTrust is a Trust with a database, private patterns and one member.
func testTrust(db *Database, pins *Pins, members ...peer.ID) *Trust {
	o := TrustOptions{Mesh: testMesh, Pins: pins, Private: "corp.test,golang.org",
		IsMember: func(id peer.ID) bool {
			for _, m := range members {
				if m == id {
					return true
				}
			}
			return false
		}}
	if db != nil {
		o.Databases = []*Database{db}
	}
	return NewTrust(o)
}

func pinsOf(t *testing.T, m module.Version, zip Digest) *Pins {
	t.Helper()
	pins := new(Pins)
	if err := pins.Add(must(ParseGoSum("go.sum", fmt.Appendf(nil, "%s %s %s\n", m.Path, m.Version, zip.H1())))...); err != nil {
		t.Fatal(err)
	}
	return pins
}

func TestVouch(t *testing.T) {
	log, online := testLogAndDatabase(t)
	offline := log.open(t, newMemCache(), down)
	truth, _ := testSums(mod(1), "")
	secret, _ := testSums(private, "")
	tool, _ := testSums(toolchain, "")
	lie := DigestOf([]byte("lie"))
	zip, info := Name{mod(1), Zip}, Name{mod(1), Info}
	for name, c := range map[string]struct {
		db    *Database
		pins  *Pins
		n     Name
		got   Digest
		by    Authority
		proof bool
		err   error
	}{
		"public, database agrees":                {db: online, n: zip, got: truth, by: BySumDB, proof: true},
		"public, database disagrees":             {db: online, n: zip, got: lie, err: ErrMismatch},
		"public, database out of reach":          {db: offline, n: zip, got: truth, err: ErrUnavailable},
		"public, unknown to the database":        {db: online, n: Name{module.Version{Path: "elsewhere.test/x", Version: "v1.0.0"}, Zip}, got: truth, err: ErrUnvouched},
		"pinned, and the database agrees":        {db: online, pins: pinsOf(t, mod(1), truth), n: zip, got: truth, by: ByPin, proof: true},
		"pinned, database disagrees":             {db: online, pins: pinsOf(t, mod(1), lie), n: zip, got: lie, err: ErrMismatch},
		"pinned, database out of reach":          {db: offline, pins: pinsOf(t, mod(1), truth), n: zip, got: truth, by: ByPin},
		"pinned, no database":                    {pins: pinsOf(t, mod(1), truth), n: zip, got: truth, by: ByPin},
		"pin disagrees, as does the database":    {db: online, pins: pinsOf(t, mod(1), truth), n: zip, got: lie, err: ErrMismatch},
		"pin disagrees, database out of reach":   {db: offline, pins: pinsOf(t, mod(1), lie), n: zip, got: truth, err: ErrMismatch},
		"private":                                {db: online, n: Name{private, Zip}, got: secret, by: ByMember},
		"private, pin disagrees":                 {db: online, pins: pinsOf(t, private, lie), n: Name{private, Zip}, got: secret, err: ErrMismatch},
		"no database":                            {n: zip, got: lie, by: ByMember},
		"info of a public module":                {db: offline, n: info, got: lie, by: ByMember},
		"toolchain, though patterns exclude it":  {db: online, n: Name{toolchain, Zip}, got: tool, by: BySumDB, proof: true},
		"toolchain that is not the database's":   {db: online, n: Name{toolchain, Zip}, got: lie, err: ErrMismatch},
		"toolchain without a database":           {n: Name{toolchain, Zip}, got: tool, err: ErrUnvouched},
		"toolchain without a database, pinned":   {pins: pinsOf(t, toolchain, tool), n: Name{toolchain, Zip}, got: tool, by: ByPin},
		"toolchain with database out of reach":   {db: offline, n: Name{toolchain, Zip}, got: tool, err: ErrUnavailable},
		"a name that is none":                    {db: online, n: Name{Kind: Zip}, got: truth, err: errAny},
		"a kind that is none, of private module": {db: online, n: Name{private, "exe"}, got: truth, err: errAny},
	} {
		t.Run(name, func(t *testing.T) {
			v, err := testTrust(c.db, c.pins).Vouch(context.Background(), c.n, c.got)
			checkErr(t, err, c.err)
			if v.By != c.by || (v.Proof != nil) != c.proof {
				t.Errorf("got %+v, want by %q, proof %v", v, c.by, c.proof)
			}
			if errors.Is(err, ErrMismatch) && (!strings.Contains(err.Error(), "h1:") || strings.Count(err.Error(), "h1:") != 2) {
				t.Errorf("%q does not name both hashes", err)
			}
		})
	}
}

// errAny is for errors that need no identity.
var errAny = errors.New("any error")

func checkErr(t *testing.T, got, want error) {
	t.Helper()
	switch {
	case want == nil && got != nil, want != nil && got == nil, want != nil && want != errAny && !errors.Is(got, want):
		t.Errorf("got error %v, want %v", got, want)
	}
	if errors.Is(got, fs.ErrNotExist) {
		t.Errorf("%v would become a 404", got)
	}
}

func TestExpect(t *testing.T) {
	log, online := testLogAndDatabase(t)
	offline := log.open(t, newMemCache(), down)
	truth, gomod := testSums(mod(1), "")
	for name, c := range map[string]struct {
		db   *Database
		pins *Pins
		n    Name
		want Digest
		err  error
	}{
		"zip":                   {db: online, n: Name{mod(1), Zip}, want: truth},
		"go.mod":                {db: online, n: Name{mod(1), Mod}, want: gomod},
		"pinned":                {db: offline, pins: pinsOf(t, mod(1), truth), n: Name{mod(1), Zip}, want: truth},
		"pinned zip, go.mod":    {db: online, pins: pinsOf(t, mod(1), truth), n: Name{mod(1), Mod}, want: gomod},
		"database out of reach": {db: offline, n: Name{mod(1), Zip}, err: ErrUnavailable},
		"unknown":               {db: online, n: Name{module.Version{Path: "elsewhere.test/x", Version: "v1.0.0"}, Zip}, err: ErrUnvouched},
		"private":               {db: online, n: Name{private, Zip}, err: ErrUnvouched},
		"info":                  {db: online, n: Name{mod(1), Info}, err: ErrUnvouched},
		"no database":           {n: Name{mod(1), Zip}, err: ErrUnvouched},
	} {
		t.Run(name, func(t *testing.T) {
			d, v, err := testTrust(c.db, c.pins).Expect(context.Background(), c.n)
			checkErr(t, err, c.err)
			if d != c.want || (err == nil) != (v.By != "") {
				t.Errorf("got %v, %+v, want %v", d, v, c.want)
			}
		})
	}
}

func TestCheckSigned(t *testing.T) {
	log, online := testLogAndDatabase(t)
	offline := log.open(t, newMemCache(), down)
	aware := log.open(t, online.cache, down) // no route either, but it looked mod(1) up before
	fork := log.fork()
	fork.grow(t, 300)
	forked := fork.open(t, newMemCache(), fork)
	strange := newTestLog(t, testDB, "") // the same name, another key
	strangeDB := strange.open(t, newMemCache(), strange)
	member, outsider := testKey(t), testKey(t)
	truth, _ := testSums(mod(1), "")
	lie := DigestOf([]byte("lie"))
	proven := provenRecord(t, online, mod(1))
	mustProve(t, aware, mod(1))

	with := func(r *Record, edit func(*Record)) *Record {
		c := *r
		if c.Vouch.Proof != nil {
			p := *c.Vouch.Proof
			p.Path = append([]byte(nil), p.Path...)
			c.Vouch.Proof = &p
		}
		edit(&c)
		return &c
	}
	// The database's own lie, as its fork tells it.
	forkedProof, err := forked.Prove(context.Background(), mod(1))
	if err != nil {
		t.Fatal(err)
	}
	forkedZip, _ := testSums(mod(1), "forked ")
	forkedRecord := with(zipRecord(mod(1)), func(r *Record) {
		r.Digest, r.Vouch = forkedZip, Vouch{BySumDB, testDB, forkedProof}
	})
	lying := with(zipRecord(mod(1)), func(r *Record) { r.Digest = lie })
	secret := zipRecord(private)
	for name, c := range map[string]struct {
		db   *Database
		pins *Pins
		r    *Record
		out  bool // signed by an outsider
		err  error
	}{
		"proof, database out of reach":               {db: offline, r: proven},
		"proof, signed by an outsider":               {db: offline, r: proven, out: true},
		"proof and a pin that agrees":                {db: offline, pins: pinsOf(t, mod(1), truth), r: proven},
		"proof and a pin that disagrees":             {db: offline, pins: pinsOf(t, mod(1), lie), r: proven, err: ErrMismatch},
		"forged proof":                               {db: offline, r: with(proven, func(r *Record) { r.Vouch.Proof.Path[0] ^= 1 }), err: ErrProof},
		"forged proof, though a pin agrees":          {db: offline, pins: pinsOf(t, mod(1), truth), r: with(proven, func(r *Record) { r.Vouch.Proof.ID++ }), err: ErrProof},
		"proof under another key":                    {db: offline, r: provenRecord(t, strangeDB, mod(1)), err: ErrProof},
		"proof from a database that is not asked":    {db: offline, r: with(proven, func(r *Record) { r.Vouch.Database = "elsewhere.test" }), err: ErrUnavailable},
		"fork's proof, nothing known":                {db: offline, r: forkedRecord}, // the key alone cannot tell
		"fork's proof, module known":                 {db: aware, r: forkedRecord, err: ErrMismatch},
		"no proof, known from before":                {db: aware, r: zipRecord(mod(1))},
		"no proof, known to be a lie":                {db: aware, r: lying, err: ErrMismatch},
		"no proof, database in reach":                {db: online, r: zipRecord(mod(2))},
		"no proof, database says it is a lie":        {db: online, r: with(zipRecord(mod(3)), func(r *Record) { r.Digest = lie }), err: ErrMismatch},
		"no proof, database out of reach":            {db: offline, r: zipRecord(mod(1)), err: ErrUnavailable},
		"no proof, but a pin":                        {db: offline, pins: pinsOf(t, mod(1), truth), r: zipRecord(mod(1))},
		"no proof, unknown to the database":          {db: online, r: zipRecord(module.Version{Path: "elsewhere.test/x", Version: "v1.0.0"}), err: ErrUnvouched},
		"private, by a member":                       {db: offline, r: secret},
		"private, by an outsider":                    {db: offline, r: secret, out: true, err: ErrUnvouched},
		"private, by an outsider, but a pin":         {db: offline, pins: pinsOf(t, private, secret.Digest), r: secret, out: true},
		"private, pin disagrees":                     {db: offline, pins: pinsOf(t, private, lie), r: secret, err: ErrMismatch},
		"info of a public module by a member":        {db: offline, r: infoRecord(mod(1))},
		"info of a public module by an outsider":     {db: offline, r: infoRecord(mod(1)), out: true, err: ErrUnvouched},
		"made for another mesh":                      {db: offline, r: with(proven, func(r *Record) { r.Mesh = "other" }), err: ErrRecord},
		"no database at all, by a member":            {r: zipRecord(mod(1))},
		"no database at all, by an outsider":         {r: zipRecord(mod(1)), out: true, err: ErrUnvouched},
		"toolchain with a proof":                     {db: offline, r: provenRecord(t, online, toolchain)},
		"toolchain without a proof":                  {db: offline, r: zipRecord(toolchain), err: ErrUnavailable},
		"toolchain, no database, though by a member": {r: zipRecord(toolchain), err: ErrUnvouched},
	} {
		t.Run(name, func(t *testing.T) {
			key := member
			if c.out {
				key = outsider
			}
			s := mustSeal(t, c.r, key)
			checkErr(t, testTrust(c.db, c.pins, keyID(t, member)).CheckSigned(context.Background(), s), c.err)
		})
	}
}

func TestPinDoesNotWaitForStallingDatabase(t *testing.T) {
	log := newTestLog(t, testDB, "")
	truth, _ := testSums(mod(1), "")
	pins := pinsOf(t, mod(1), truth)
	synctest.Test(t, func(t *testing.T) {
		d := log.open(t, newMemCache(), remoteFunc(func(ctx context.Context, _ string) ([]byte, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}))
		v, err := testTrust(d, pins).Vouch(context.Background(), Name{mod(1), Zip}, truth)
		if err != nil || v.By != ByPin {
			t.Errorf("got %+v, %v", v, err)
		}
	})
}

func TestSeveralDatabases(t *testing.T) {
	public, corp := newTestLog(t, testDB, ""), newTestLog(t, "sums.corp.test", "")
	one := public.open(t, newMemCache(), public)
	spec := corp.spec()
	spec.Only = "example.test/Some/mod7"
	two, err := NewDatabase(DatabaseOptions{Spec: spec, Cache: newMemCache(), Sources: []Source{{"corp", corp}}})
	if err != nil {
		t.Fatal(err)
	}
	trust := NewTrust(TrustOptions{Mesh: testMesh, Databases: []*Database{two, one}, Private: "example.test/Some/mod7,example.test/Some/mod8"})
	for name, c := range map[string]struct {
		m        module.Version
		database string
		by       Authority
	}{
		"covered by its own, though private": {mod(7), "sums.corp.test", BySumDB},
		"covered by the public one":          {mod(1), testDB, BySumDB},
		"private":                            {mod(8), "", ByMember},
	} {
		t.Run(name, func(t *testing.T) {
			zip, _ := testSums(c.m, "")
			v, err := trust.Vouch(context.Background(), Name{c.m, Zip}, zip)
			if err != nil || v.By != c.by || v.Database != c.database {
				t.Errorf("got %+v, %v", v, err)
			}
			if trust.Public(c.m.Path) != (c.database != "") {
				t.Errorf("Public(%s) = %v", c.m.Path, trust.Public(c.m.Path))
			}
		})
	}
	if n := public.asked["/lookup/example.test/!some/mod7@v1.2.3"] + public.asked["/lookup/example.test/!some/mod8@v1.2.3"]; n != 0 {
		t.Error("the public database heard of a private module")
	}
}

func TestTrustServesDatabases(t *testing.T) {
	log, d := testLogAndDatabase(t)
	trust := testTrust(d, nil)
	ctx := context.Background()
	if body, err := trust.SumDB(ctx, testDB, "lookup/example.test/!some/mod1@v1.2.3", ServeOptions{}); err != nil || len(body) == 0 {
		t.Errorf("got %q, %v", body, err)
	}
	if _, err := trust.SumDB(ctx, "elsewhere.test", "supported", ServeOptions{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a database that is not configured: %v", err)
	}
	asked := log.requests()
	if _, err := trust.SumDB(ctx, testDB, "lookup/corp.test/secret@v1.0.0", ServeOptions{}); !errors.Is(err, ErrPrivate) {
		t.Errorf("a private module: %v", err)
	}
	if log.requests() != asked {
		t.Error("the database heard of a private module")
	}
	if _, err := trust.SumDB(ctx, testDB, "lookup/nonsense", ServeOptions{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("nonsense: %v", err)
	}
}
