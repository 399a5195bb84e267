package workload

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/stage"
)

// The bounds that the product promises, from the REST call to the open stream.
const (
	rounds        = 100
	creationBound = 250 * time.Millisecond // p99
	deletionBound = time.Second            // p99
)

// TestLatency creates and deletes entries with polling out of the way, so that
// only what is pushed can arrive in time.
func TestLatency(t *testing.T) {
	d := devtest.Start(t, "--poll-interval", "1h")
	w := watch(t, d)
	var created, deleted []time.Duration
	for i := range rounds {
		path := fmt.Sprintf("/round-%d", i)
		began := time.Now()
		entry := d.Entry(t, path, os.Getuid(), "")
		created = append(created, w.until(t, path, true).Sub(began))
		began = time.Now()
		d.Delete(t, entry)
		deleted = append(deleted, w.until(t, path, false).Sub(began))
	}
	report(t, "created entry on the open stream", created, creationBound)
	report(t, "deleted entry off the open stream", deleted, deletionBound)
}

// report prints the distribution and holds its p99 to the bound.
func report(t *testing.T, what string, took []time.Duration, bound time.Duration) {
	t.Helper()
	slices.Sort(took)
	at := func(percent int) time.Duration {
		return took[(len(took)*percent+99)/100-1].Round(10 * time.Microsecond)
	}
	t.Logf("%s: n=%d p50=%s p90=%s p99=%s max=%s", what, len(took), at(50), at(90), at(99), at(100))
	if p99 := at(99); p99 >= bound {
		t.Errorf("%s: p99 is %s, the bound is %s", what, p99, bound)
	}
}

// watcher keeps what the stream of this process's SVIDs said.
type watcher struct {
	domain  string
	updates chan update
}

type update struct {
	at    time.Time
	ids   []string // in the order of the Workload API
	fault error
}

// watch opens the stream and waits for its first word.
func watch(t *testing.T, d *devtest.Dev) *watcher {
	t.Helper()
	w := &watcher{domain: "spiffe://" + d.TrustDomain, updates: make(chan update, 1024)}
	ctx, cancel := context.WithCancel(t.Context())
	client, ended := d.Workload(t), make(chan error, 1)
	go func() { ended <- client.WatchX509Context(ctx, w) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	w.until(t, "/dev", true)
	return w
}

func (w *watcher) OnX509ContextUpdate(c *workloadapi.X509Context) {
	u := update{at: time.Now()}
	for _, svid := range c.SVIDs {
		u.ids = append(u.ids, svid.ID.String())
	}
	w.updates <- u
}

func (w *watcher) OnX509ContextWatchError(err error) { w.updates <- update{at: time.Now(), fault: err} }

// until gives when the ID with this path came to be there, or not.
func (w *watcher) until(t *testing.T, path string, there bool) time.Time {
	t.Helper()
	limit := time.After(devtest.Patience)
	var last update
	for {
		select {
		case last = <-w.updates:
			if last.fault == nil && slices.Contains(last.ids, w.domain+path) == there {
				return last.at
			}
		case <-limit:
			t.Fatalf("%s on the stream: still not %v after %s; its last word was %v, %v", path, there, devtest.Patience, last.ids, last.fault)
		}
	}
}

// TestSources uses go-spiffe's sources as a workload's programmer would.
func TestSources(t *testing.T) {
	d := devtest.Start(t, "--poll-interval", "1h")
	t.Run("X509Source", func(t *testing.T) { x509Source(t, d) })
	t.Run("JWTSource", func(t *testing.T) { jwtSource(t, d) })
}

// x509Source lives through rotations of its own and of the whole default.
func x509Source(t *testing.T, d *devtest.Dev) {
	d.Entry(t, "/short", os.Getuid(), "5s")
	source, err := workloadapi.NewX509Source(t.Context(),
		workloadapi.WithClientOptions(workloadapi.WithAddr(d.AgentSocket)), workloadapi.WithDefaultX509SVIDPicker(pick(d.ID("/short"))))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	serials := map[string]bool{}
	stage.Eventually(t, devtest.Patience, func() error {
		svid, err := source.GetX509SVID()
		if err != nil {
			t.Fatal(err)
		}
		leaf := svid.Certificates[0]
		if left := time.Until(leaf.NotAfter); svid.ID.String() == d.ID("/short") && left <= 0 {
			t.Fatalf("the source gives a certificate that has been expired for %s", -left)
		}
		if svid.ID.String() == d.ID("/short") {
			serials[leaf.SerialNumber.String()] = true
		}
		if len(serials) < 3 {
			return fmt.Errorf("%d certificates so far", len(serials))
		}
		return nil
	})
}
