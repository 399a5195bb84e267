package sqlite_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/authsec-ai/icp/server/store"
	"github.com/authsec-ai/icp/server/store/sqlite"
	"github.com/authsec-ai/icp/server/store/storetest"
)

// fresh opens databases that never poll.
func fresh(tb testing.TB) storetest.Opener {
	path := filepath.Join(tb.TempDir(), "a b?c#d%20.db") // a name that a URL would misread
	return func(tb testing.TB) store.Store { return open(tb, path, sqlite.Options{PollInterval: time.Hour}) }
}

func open(tb testing.TB, path string, opts sqlite.Options) store.Store {
	tb.Helper()
	s, err := sqlite.Open(tb.Context(), path, opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() }) // a test may have closed it already
	return s
}

func TestStore(t *testing.T) { storetest.Run(t, fresh) }
