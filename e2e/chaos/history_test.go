package chaos

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestRecorder ends a recorder in the middle of a line and goes on.
func TestRecorder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.jsonl")
	r, err := OpenRecorder(path)
	if err != nil {
		t.Fatal(err)
	}
	begun := r.Begin(Event{Op: Create, Tag: "a"})
	r.Begin(Event{Op: Delete, Tag: "b"}) // never ended
	r.Note(Event{Op: Close, Stream: "s"})
	begun.Outcome = OK
	r.End(begun)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	cut, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = cut.WriteString(`{"n":4,"op":"cre`)
	}
	if err != nil {
		t.Fatal(err)
	}
	cut.Close()
	if r, err = OpenRecorder(path); err != nil {
		t.Fatal(err)
	}
	r.Note(Event{Op: List})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	h, err := readHistoryFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(h) != 4 {
		t.Fatalf("there are %d events, want 4: %+v", len(h), h)
	}
	for i, want := range []Event{{N: 1, Op: Create, Outcome: OK}, {N: 2, Op: Delete, Outcome: Unknown}, {N: 3, Op: Close}, {N: 4, Op: List}} {
		if e := h[i]; e.N != want.N || e.Op != want.Op || e.Outcome != want.Outcome {
			t.Errorf("event %d is %+v, want %+v", i, e, want)
		}
	}
	if h[0].End.IsZero() || !h[1].End.IsZero() {
		t.Errorf("ends are %s and %s; want one for what has ended alone", h[0].End, h[1].End)
	}
}

func TestSettled(t *testing.T) {
	running := []span{{at(10), at(20)}, {at(30), at(40)}}
	for name, c := range map[string]struct {
		of   span
		want []span
	}{
		"within one run":     {span{at(12), at(15)}, []span{{at(13), at(15)}}},
		"over a kill":        {span{at(12), at(35)}, []span{{at(13), at(20)}, {at(31), at(35)}}},
		"shorter than bound": {span{at(12), at(12.5)}, nil},
		"while it is down":   {span{at(21), at(29)}, nil},
		"without an end":     {span{from: at(39.5)}, nil},
		"from the start":     {span{}, []span{{at(11), at(20)}, {at(31), at(40)}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := settled(c.of, running, time.Second)
			if len(got) != len(c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
			for i := range got {
				if !got[i].from.Equal(c.want[i].from) || !got[i].to.Equal(c.want[i].to) {
					t.Errorf("got %v, want %v", got, c.want)
				}
			}
		})
	}
}

func TestCalm(t *testing.T) {
	running := []span{{at(10), at(20)}, {at(30), at(40)}}
	for name, c := range map[string]struct {
		faults [][2]float64 // of the agent's link
		want   []span
	}{
		"none":               {nil, running},
		"within":             {[][2]float64{{12, 13}, {15, 16}}, []span{{at(10), at(12)}, {at(13), at(15)}, {at(16), at(20)}, running[1]}},
		"over a kill":        {[][2]float64{{18, 20.1}}, []span{{at(10), at(18)}, running[1]}},
		"without an end":     {[][2]float64{{12, 13}, {18, 0}}, []span{{at(10), at(12)}, {at(13), at(18)}, running[1]}},
		"all the time":       {[][2]float64{{10, 20}}, running[1:]},
		"while nothing runs": {[][2]float64{{21, 22}}, running},
	} {
		t.Run(name, func(t *testing.T) {
			story := &tale{}
			story.fault(11, 39, ProxyLink)
			for _, f := range c.faults {
				story.fault(f[0], f[1], AgentLink)
			}
			got := story.h.calm(running, AgentLink)
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}
