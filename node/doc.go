// Package node is one office: it answers the go command from its store, from the
// other offices, and, for what nobody has yet, from the world outside.
//
// A request goes store, mesh, first fetch, admit, store, client. It promises:
//
//   - One door. Only admit writes releases, and only after package verify has
//     said who vouches for the bytes; nothing reaches a client that has not come
//     through it.
//   - Identical requests share one piece of work, which outlives the client that
//     started it and ends with the node.
//   - What is held is served without waiting for anything that is not: reads
//     take no part in the queue for the world outside.
//   - What could not be reached is never reported as not existing. An error says
//     what was tried, and who said what.
//
// It also runs the office's control socket: Control is what an operator can ask,
// answered by a Node, by a Client of one that runs, and by Offline from the store
// of one that does not.
package node
