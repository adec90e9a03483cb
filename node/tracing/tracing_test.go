package tracing_test

import (
	"strings"
	"testing"

	"github.com/meshproxy/meshproxy/node/tracing"
)

func TestCheckEndpoint(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		good bool
	}{
		"http":        {"http://localhost:4318", true},
		"a path":      {"https://collector.test/otlp/", true},
		"no scheme":   {"localhost:4318", false},
		"other":       {"grpc://localhost:4317", false},
		"credentials": {"http://u:plantedpassword@localhost:4318", false},
		"no URL":      {"http://u:plantedpassword@local host\x00", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := tracing.CheckEndpoint(c.text)
			if (err == nil) != c.good {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), "plantedpassword") {
				t.Errorf("the error holds the password: %v", err)
			}
		})
	}
}
