package main

import (
	"context"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/meshproxy/meshproxy/node"
	"github.com/meshproxy/meshproxy/node/tracing"
)

const flagOTLP = "otlp-endpoint"

// tracingFlags say whether traces are sent, and where to.
func tracingFlags() []cli.Flag {
	return []cli.Flag{&cli.StringFlag{
		Name: flagOTLP, EnvVars: env(flagOTLP), Category: catLog, DefaultText: "OTEL_EXPORTER_OTLP_ENDPOINT; without it none are sent",
		Usage: "send traces of requests to the OpenTelemetry collector at this `URL`, by OTLP over HTTP",
	}}
}

// checkTracing looks at the value of --otlp-endpoint.
func checkTracing(c *cli.Context) error {
	if endpoint := c.String(flagOTLP); endpoint != "" {
		if err := tracing.CheckEndpoint(endpoint); err != nil {
			return misuse("--%s: %v", flagOTLP, err)
		}
	}
	return nil
}

// tracesWanted reports whether the flag or the standard variables say where traces go.
func tracesWanted(c *cli.Context) bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return false
	}
	return c.String(flagOTLP) != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != ""
}

// startTracing gives the node's configuration a tracer if traces are wanted. The
// returned func sends the last spans.
func startTracing(c *cli.Context, cfg *node.Config) (stop func() error, err error) {
	if !tracesWanted(c) {
		return func() error { return nil }, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if p := os.Getenv(name); p != "" && p != "http/protobuf" {
			cfg.Log.Warn("traces are sent as http/protobuf only", name, p)
		}
	}
	t, err := tracing.New(context.WithoutCancel(c.Context), tracing.Options{Endpoint: c.String(flagOTLP), Version: cfg.Version, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	cfg.Tracer = t.Tracer()
	return t.Close, nil
}
