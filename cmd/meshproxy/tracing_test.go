package main

import (
	"flag"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestTracesWanted(t *testing.T) {
	for name, c := range map[string]struct {
		flag string
		env  map[string]string
		want bool
	}{
		"nothing said":                {},
		"flag":                        {flag: "http://localhost:4318", want: true},
		"standard variable":           {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, want: true},
		"standard variable of traces": {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, want: true},
		"SDK off":                     {flag: "http://localhost:4318", env: map[string]string{"OTEL_SDK_DISABLED": "true"}},
		"exporter none":               {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318", "OTEL_TRACES_EXPORTER": "none"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, key := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"} {
				t.Setenv(key, c.env[key])
			}
			set := flag.NewFlagSet("", flag.ContinueOnError)
			set.String(flagOTLP, c.flag, "")
			if got := tracesWanted(cli.NewContext(cli.NewApp(), set, nil)); got != c.want {
				t.Errorf("wanted: %v, want %v", got, c.want)
			}
		})
	}
}
