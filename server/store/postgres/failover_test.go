package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/pg"
	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/postgres"
)

// TestFailover kills the primary under an open store, which goes on with the
// standby: nothing that was committed is lost, and whoever waits for changes
// sees those of the new primary.
func TestFailover(t *testing.T) {
	pair := pg.StartPair(t, pg.PairOptions{Synchronous: true})
	db := pair.NewDatabase(t)
	s := open(t, db.DSN, postgres.Options{MigrateDSN: db.OwnerDSN, PollInterval: 100 * time.Millisecond})
	addTenants(t, s, "a")
	before := addEntry(t, s, "a", "before")
	tenant, err := s.Tenant(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	woken := make(chan error, 1)
	go func() { woken <- waitPast(t.Context(), s, tenant.Cursor) }()

	pair.Fail(t)
	stage.Eventually(t, time.Minute, func() error {
		_, err := s.Tenant(t.Context(), "a")
		if code := identity.CodeOf(err); err != nil && code != identity.Unavailable {
			t.Fatalf("in between: %s %v; want %s, which callers try again", code, err, identity.Unavailable)
		}
		return err
	})
	after := addEntry(t, s, "a", "after")
	entries, _, err := s.Entries(t.Context(), "a", store.EntryFilter{})
	var ids []string
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	slices.Sort(ids)
	if err != nil || !slices.Equal(ids, []string{after.ID, before.ID}) {
		t.Errorf("entries %v, %v; want those of before and after", ids, err)
	}
	select {
	case err := <-woken:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("who waited across the failover was not told of the change after it")
	}
}

// waitPast waits until the tenant's revision is beyond a cursor, as long as the
// store is there or comes back.
func waitPast(ctx context.Context, s store.Store, after store.Cursor) error {
	for {
		now, err := s.Wait(ctx, "a", after)
		switch {
		case err == nil && now.Revision > after.Revision:
			return nil
		case err == nil:
			return fmt.Errorf("woken at %v after %v", now, after)
		case identity.CodeOf(err) != identity.Unavailable:
			return fmt.Errorf("waiting across the failover: %w", err)
		}
	}
}
