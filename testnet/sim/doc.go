// Package sim is a mesh of up to ten thousand members in one process, for what
// cannot be had from machines: how messages, latency, state and repair grow.
//
// Routing, claims, transfers and repair are the code that ships, mesh/exchange as
// it is, one Exchange for each member. What is simulated is what lies around it:
// the hosts and their streams (Network), which know latency, bandwidth and sudden
// death, and count; the store (in memory, with the same checks of what it is
// given); and the world outside, which counts its fetches. Every member is
// connected to every other one that is up, as package mesh keeps them.
//
// Time is whatever package time says. Run in a bubble of testing/synctest it is
// simulated: it stands still while anybody computes, so latencies are those of the
// links alone, and a simulated hour lasts as long as its events take to compute.
//
// Identities, places, links, names and churn come from a seed. The goroutines'
// order and the jitter of the code under test do not, so counts differ a little
// from run to run.
package sim
