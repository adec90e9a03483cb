// Package main is linked into a meshproxy of the tests only: it gives the process a wall
// clock that is off by what a file says, in seconds.
package main

import (
	"os"
	"syscall"
	"unsafe"
)

// off points to how far the clock is off in seconds, in a file that others write to.
var off *int64

// trueClock is the kernel's function that tells the time.
var trueClock uintptr

// setClock has the runtime ask a function that adds off to the wall clock, and nothing
// to the other one, as when the clock of a machine is set while programs run. It
// reports whether it could: a kernel may not have such a function.
func setClock() bool

func init() {
	name, ok := os.LookupEnv("TESTNET_CLOCK")
	if !ok {
		return
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		panic(err)
	}
	page, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	off = (*int64)(unsafe.Pointer(&page[0]))
	if !setClock() {
		panic("TESTNET_CLOCK: the kernel gives this process no function that tells the time")
	}
}
