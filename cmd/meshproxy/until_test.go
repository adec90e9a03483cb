package main

import (
	"regexp"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdUntil runs a program again and again until what it prints matches,
// whatever its exit status is.
//
//	until PATTERN PROGRAM ARG...
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM ARG...")
	}
	want, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	end := time.Now().Add(patience)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if want.MatchString(ts.ReadFile("stdout") + ts.ReadFile("stderr")) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no %q in:\n%s%s%v", args[0], ts.ReadFile("stdout"), ts.ReadFile("stderr"), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
