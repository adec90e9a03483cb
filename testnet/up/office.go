package up

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/meshproxy/meshproxy/testnet/wan"
)

// Line is how an office is connected with all others.
type Line struct {
	Rate int64 // bits a second, each way
	// RTT is the time there and back to an office with the same RTT. Between two
	// offices it takes half of each one's.
	RTT time.Duration
	NAT wan.NAT // what others have to get through; with networks of their own only
}

// Office is one to bring up.
type Office struct {
	Name string
	Line
}

// String says how the line is, as ParseOffice reads it.
func (l Line) String() string {
	text := fmt.Sprintf("%s, %v", wan.FormatRate(l.Rate), l.RTT)
	for name, nat := range nats {
		if nat == l.NAT && nat != wan.NoNAT {
			text += ", nat=" + name
		}
	}
	return text
}

var nats = map[string]wan.NAT{"none": wan.NoNAT, "easy": wan.EasyNAT, "hard": wan.HardNAT}

// name keeps a table of two of them within a terminal.
var name = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,15}$`)

// everybody is what commands call all offices; network is a site of the testnet's own.
const (
	everybody = "all"
	network   = "internet"
)

func (o Office) check() error {
	switch {
	case !name.MatchString(o.Name) || o.Name == everybody || o.Name == network:
		return fmt.Errorf("office %q: want a name of small letters, digits and -, at most 16, that is not %s or %s", o.Name, everybody, network)
	case o.RTT < 0 || o.RTT > maxRTT:
		return fmt.Errorf("office %s: rtt %v: want 0 to %v", o.Name, o.RTT, maxRTT)
	}
	return nil
}

// ParseOffice reads name=NAME,rate=20mbit,rtt=120ms,nat=easy, of which all but the
// name may be left out: then they are the usual ones.
func ParseOffice(text string, usual Line) (o Office, err error) {
	o.Line = usual
	seen := map[string]bool{}
	for part := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || seen[key] {
			return Office{}, fmt.Errorf("office %q: want name=NAME,rate=20mbit,rtt=120ms, each once at most", text)
		}
		seen[key] = true
		switch key {
		case "name":
			o.Name = value
		case "rate":
			o.Rate, err = wan.ParseRate(value)
		case "rtt":
			o.RTT, err = time.ParseDuration(value)
		case "nat":
			if o.NAT, ok = nats[value]; !ok {
				err = fmt.Errorf("%q: want none, easy or hard", value)
			}
		default:
			err = fmt.Errorf("want name, rate, rtt or nat")
		}
		if err != nil {
			return Office{}, fmt.Errorf("office %q: %s: %w", text, key, err)
		}
	}
	return o, o.check()
}

// Fill adds offices with the usual line to those that were described until there are
// so many.
func Fill(described []Office, total int, usual Line) []Office {
	taken := map[string]bool{}
	for _, o := range described {
		taken[o.Name] = true
	}
	all := described[:len(described):len(described)]
	for i := 1; len(all) < total; i++ {
		if name := fmt.Sprint("office", i); !taken[name] {
			all = append(all, Office{name, usual})
		}
	}
	return all
}
