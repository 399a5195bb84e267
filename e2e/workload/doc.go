// Package workload looks at the agent's socket as a workload does, with plain
// go-spiffe: how soon an entry is seen there, and what is served while the
// server is away.
package workload
