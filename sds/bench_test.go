package sds_test

import (
	"testing"

	"github.com/authsec-ai/icp/agent/agenttest"
)

// BenchmarkSDSStream has one rotation reach one open stream: the SVID is issued
// by the test's authority, resolved, encoded, sent, received and acknowledged.
func BenchmarkSDSStream(b *testing.B) {
	agent := start(b, agenttest.Options{}, edge)
	stream := openSotW(b, agent)
	stream.send(ask("default"))
	stream.next()
	b.ReportAllocs()
	for b.Loop() {
		put(agent, edge)
		stream.send(ack(stream.next(), "default"))
	}
}

// BenchmarkSDSFetch is one attested answer without a stream.
func BenchmarkSDSFetch(b *testing.B) {
	c := client(b, start(b, agenttest.Options{}, edge))
	ctx := limited(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.FetchSecrets(ctx, ask("default")); err != nil {
			b.Fatal(err)
		}
	}
}
