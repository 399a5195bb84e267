package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

var sampleRecord = record{
	Time: time.Date(2026, 2, 3, 4, 5, 6, 789000000, time.UTC), RequestID: newRequestID(),
	Subject: "spiffe://td.test/sales-bot", Serial: "4d2", Remote: "127.0.0.1:40000",
	Service: "llm", Method: "POST", Path: "/v1/chat/completions", Model: "customer-service-llm",
	Outcome: outcomeAllowed, Reason: "allowed", Policy: "sales",
	Status: 200, Bytes: 1024, Duration: 12.345, End: endComplete,
}

func checkLine(t *testing.T, r record) {
	t.Helper()
	want, err := json.Marshal(r)
	must(t, err)
	if got := r.appendTo(nil); string(got) != string(want)+"\n" {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// A line is what encoding/json makes of the record.
func TestAuditLine(t *testing.T) {
	checkLine(t, sampleRecord)
	checkLine(t, record{})
	local := sampleRecord
	local.Time = local.Time.In(time.FixedZone("", 5400))
	local.Duration = 0.001
	checkLine(t, local)
	for c := range rune(0x300) {
		r := sampleRecord
		r.Path = "/a" + string(c) + "b"
		checkLine(t, r)
	}
}

func FuzzAuditLine(f *testing.F) {
	f.Add("/v1/models", "m", int64(1500), int64(0))
	f.Add("/<a>&\"\\", "\xff\u2028\x7f", int64(0), int64(1<<40))
	f.Fuzz(func(t *testing.T, path, model string, took, sent int64) {
		r := sampleRecord
		r.Path, r.Model, r.Bytes = path, model, sent
		r.Duration = float64(time.Duration(took).Microseconds()) / 1000
		checkLine(t, r)
	})
}

// brokenSink takes a number of writes.
type brokenSink struct {
	bytes.Buffer
	left int
}

func (b *brokenSink) Write(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		return 0, errors.New("the disk is full")
	}
	return b.Buffer.Write(p)
}

func newTrail(t *testing.T, to io.Writer, lost *atomic.Int64) (*trail, chan error) {
	t.Helper()
	trail, err := openTrail("", to, slog.New(slog.DiscardHandler), func() { lost.Add(1) })
	must(t, err)
	ended := make(chan error, 1)
	go func() { ended <- trail.run() }()
	return trail, ended
}

// All lines that found room are written, once and in order, by the end of run.
func TestAuditWritesAll(t *testing.T) {
	var lost atomic.Int64
	var sink bytes.Buffer
	trail, ended := newTrail(t, &sink, &lost)
	const n = 1000
	var want strings.Builder
	for i := range n {
		r := sampleRecord
		r.Bytes = int64(i)
		trail.put(&r, i%2 == 0 && trail.reserve(t.Context()))
		want.Write(r.appendTo(nil))
	}
	trail.finish()
	must(t, <-ended)
	if sink.String() != want.String() || lost.Load() != 0 || len(trail.room) != 0 {
		t.Errorf("%d bytes of %d, %d lost, %d tokens kept", sink.Len(), want.Len(), lost.Load(), len(trail.room))
	}
}

// After a write has failed there is room for nobody, and every line is counted.
func TestAuditFails(t *testing.T) {
	var lost atomic.Int64
	sink := &brokenSink{left: 1}
	trail, ended := newTrail(t, sink, &lost)
	r := sampleRecord
	trail.put(&r, trail.reserve(t.Context()))
	wait := (&rig{tb: t}).eventually
	wait("the line to be written", func() bool { return len(trail.room) == 0 })
	early := trail.reserve(t.Context())
	trail.put(&r, false)
	wait("the write to fail", func() bool { return len(trail.room) == cap(trail.room) })
	if !early || trail.reserve(t.Context()) {
		t.Errorf("before the failure %v; afterwards there is still room", early)
	}
	trail.put(&r, true)  // had its room before
	trail.put(&r, false) // finds none
	trail.finish()
	if err := <-ended; err == nil || lost.Load() != 3 || strings.Count(sink.String(), "\n") != 1 {
		t.Errorf("error %v, %d lost, wrote %q", err, lost.Load(), sink.String())
	}
}
