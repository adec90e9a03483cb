package verify

import (
	"context"
	"testing"
)

// benchLog is a database of a size that has tiles on three levels.
func benchLog(b *testing.B) (*testLog, *Database) {
	b.Helper()
	log := newTestLog(b, testDB, "")
	log.grow(b, 70_000)
	return log, log.open(b, newMemCache(), log)
}

func BenchmarkProofCheck(b *testing.B) {
	log, d := benchLog(b)
	p, v := mustProve(b, d, mod(1)), log.verifier(b)
	for b.Loop() {
		if err := p.Check(v); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(must(encMode.Marshal(p)))), "proof-bytes")
}

func BenchmarkProveWarm(b *testing.B) {
	_, d := benchLog(b)
	mustProve(b, d, mod(1))
	for b.Loop() {
		if _, err := d.Prove(context.Background(), mod(1)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkProveCold400 is a cold project: 400 lookups at once, less the network.
func BenchmarkProveCold400(b *testing.B) {
	log, _ := benchLog(b)
	for i := range 400 {
		if _, err := log.server.Lookup(context.Background(), mod(i)); err != nil {
			b.Fatal(err)
		}
	}
	var s Stats
	for b.Loop() {
		d := log.open(b, newMemCache(), log)
		done := make(chan error)
		for i := range 400 {
			go func() { _, err := d.Prove(context.Background(), mod(i)); done <- err }()
		}
		for range 400 {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
		s = d.Stats()
	}
	b.ReportMetric(float64(s.Lookups), "lookups/op")
	b.ReportMetric(float64(s.Tiles), "tiles/op")
}

func BenchmarkOpenSigned(b *testing.B) {
	_, d := benchLog(b)
	s := mustSeal(b, provenRecord(b, d, mod(1)), testKey(b))
	for b.Loop() {
		if _, err := OpenSigned(s.Envelope); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(s.Envelope)), "record-bytes")
}

func BenchmarkCheckSigned(b *testing.B) {
	log, d := benchLog(b)
	key := testKey(b)
	trust := testTrust(log.open(b, newMemCache(), down), nil, keyID(b, key))
	for name, r := range map[string]*Record{"proof": provenRecord(b, d, mod(1)), "member": zipRecord(private)} {
		s := mustSeal(b, r, key)
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := trust.CheckSigned(context.Background(), s); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkServe(b *testing.B) {
	_, d := benchLog(b)
	mustProve(b, d, mod(1))
	for name, path := range map[string]string{"lookup": "lookup/example.test/!some/mod1@v1.2.3", "tile": "tile/8/1/000"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := d.Serve(context.Background(), path, ServeOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseListing(b *testing.B) {
	files := make([]File, 2000)
	for i := range files {
		files[i] = File{Name: mod(i).String() + "/some/dir/file.go", Sum: DigestOf([]byte{byte(i)})}
	}
	l, err := NewListing(files)
	if err != nil {
		b.Fatal(err)
	}
	text := l.Encode()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := ParseListing(text); err != nil {
			b.Fatal(err)
		}
	}
}
