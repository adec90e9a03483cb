package main

import (
	"time"

	"github.com/dustin/go-humanize"
	"github.com/prometheus/common/model"
	"github.com/urfave/cli/v2"
)

// sizeFlag reads sizes as people write them: 10GB, 500MiB.
func sizeFlag(name, usage, category string) cli.Flag {
	return &cli.StringFlag{Name: name, EnvVars: env(name), Usage: usage, Category: category}
}

// size is the value of a sizeFlag in bytes, 0 if it is not set.
func size(c *cli.Context, name string) (int64, error) {
	text := c.String(name)
	if text == "" {
		return 0, nil
	}
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > 1<<62 {
		return 0, misuse("--%s %q: want a size like 20GB or 500MiB", name, text)
	}
	return int64(n), nil
}

// ageFlag reads times as people write them: 90d, 2w, 12h.
func ageFlag(name, usage, category string) cli.Flag { return sizeFlag(name, usage, category) }

// age is the value of an ageFlag, 0 if it is not set.
func age(c *cli.Context, name string) (time.Duration, error) {
	text := c.String(name)
	if text == "" {
		return 0, nil
	}
	long, err := model.ParseDuration(text)
	d := time.Duration(long)
	if err != nil {
		d, err = time.ParseDuration(text) // knows 1.5h, but no days
	}
	if err != nil || d <= 0 {
		return 0, misuse("--%s %q: want a time like 90d, 2w or 12h", name, text)
	}
	return d, nil
}

const rateOff = "off"

// rate is the value of a sizeFlag for bytes a second: 0 if it is not set, negative
// for off.
func rate(c *cli.Context, name string) (int64, error) {
	if c.String(name) == rateOff {
		return -1, nil
	}
	return size(c, name)
}
