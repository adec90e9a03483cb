// Package transfer brings modules in from trees of files, and writes such trees.
//
// It reads the three trees that are about: the download cache of the go command
// (GOMODCACHE/cache/download), a GOPROXY served as files, which has the same
// shape, and the disk storage of Athens. It believes none of them: Import hands
// each file to its caller, whose door is the one that everything comes through,
// and says at the end what was refused and why. Export writes a GOPROXY that works
// as GOPROXY=file://.
//
// Both may be interrupted at any time and started again: what is there already is
// not done twice, and no file is ever half written under its own name.
package transfer
