// Package upstream asks the world outside the mesh for modules: the entries of a
// GOPROXY list in the go command's own order and with its rules for "," and "|".
//
// Proxies are asked in this process: bounded, queued first come first served,
// with limits on size and on standing still, retried where that can help, never
// in a loop. "direct" runs the go command in a clean directory and environment,
// so that version control, credentials and GOPRIVATE work as its users know
// them. Errors are *protocol.Error and keep status and text of whoever refused.
//
// Nothing that comes back has been verified: sizes, and what the go command
// itself would refuse, are checked here; hashes are the caller's business.
package upstream
