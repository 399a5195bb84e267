package storetest

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/authsec-ai/icp/server/store"
)

// Bench measures the calls that the speed of the server hangs on.
func Bench(b *testing.B, fresh func(tb testing.TB) Opener) {
	b.Run("CreateEntry", func(b *testing.B) { benchCreateEntry(b, fresh(b)(b)) })
	b.Run("CreateEntryParallel", func(b *testing.B) { benchCreateEntryParallel(b, fresh(b)(b)) })
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprintf("RecordIntents%d", size), func(b *testing.B) { benchRecordIntents(b, fresh(b)(b), size) })
	}
	for _, size := range []int{10, 1000} {
		b.Run(fmt.Sprintf("EntriesByParent%d", size), func(b *testing.B) { benchEntriesByParent(b, fresh(b)(b), size) })
	}
}

func benchCreateEntry(b *testing.B, s store.Store) {
	addTenant(b, s, "a")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		addEntry(b, s, "a", fmt.Sprintf("e%d", i))
		i++
	}
	perSecond(b, 1)
}

func benchCreateEntryParallel(b *testing.B, s store.Store) {
	addTenant(b, s, "a")
	var i atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := s.CreateEntry(b.Context(), newEntry("a", fmt.Sprintf("e%d", i.Add(1))), event("entry.create")); err != nil {
				b.Error(err)
				return
			}
		}
	})
	perSecond(b, 1)
}

func benchRecordIntents(b *testing.B, s store.Store, size int) {
	addTenant(b, s, "a")
	node := addNode(b, s, "a", "one", "ff").ID.String()
	e := addEntry(b, s, "a", "e1")
	items := make([]store.Intent, size)
	next := 0
	b.ReportAllocs()
	for b.Loop() {
		for i := range items {
			next++
			items[i] = newIntent(e, serialOf(next), serialOf(next))
		}
		_, errs, err := s.RecordIntents(b.Context(), "a", node, start, items)
		must(b, errors.Join(append(errs, err)...))
	}
	perSecond(b, size)
}

// benchEntriesByParent lists one parent's entries among ten times as many others.
func benchEntriesByParent(b *testing.B, s store.Store, size int) {
	addTenant(b, s, "a")
	for i := range 11 * size {
		e := newEntry("a", fmt.Sprintf("e%d", i))
		if i >= size {
			e.ParentID = agentID("a", fmt.Sprintf("other%d", i/size))
		}
		get(s.CreateEntry(b.Context(), e, event("entry.create")))(b)
	}
	b.ReportAllocs()
	for b.Loop() {
		entries, _, err := s.EntriesByParent(b.Context(), "a", agentID("a", "one").String())
		must(b, err)
		equal(b, "entries", len(entries), size)
	}
}

// perSecond reports how many items a second the benchmark did.
func perSecond(b *testing.B, size int) {
	b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "items/s")
}
