// Package envoy proves with a real Envoy that the agent's SDS carries an edge
// through its life: it starts, refuses whom it must, and lives through
// rotations. Each test runs on an agent alone, whose cache the test fills, and
// on a whole `icp dev`.
package envoy
