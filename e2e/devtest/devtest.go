// Package devtest gives tests a running `icp dev` and what they ask of it most.
package devtest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/authsec-ai/icp/e2e/icpdev"
	"github.com/authsec-ai/icp/e2e/stage"
)

// Patience is how long a test waits for what should happen at once.
const Patience = 30 * time.Second

// Dev is a running `icp dev` that ends with the test.
type Dev struct {
	*icpdev.Instance
	Admin *icpdev.Admin
}

// Start runs `icp dev` on a new folder.
func Start(tb testing.TB, args ...string) *Dev {
	tb.Helper()
	return StartOn(tb, filepath.Join(stage.Folder(tb), "dev"), args...)
}

// StartOn runs `icp dev` on dir.
func StartOn(tb testing.TB, dir string, args ...string) *Dev {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), time.Minute)
	defer cancel()
	instance, err := icpdev.Start(ctx, icpdev.Options{Binary: stage.Program(tb, "icp"), Dir: dir, Args: args})
	if err != nil {
		tb.Fatalf("start icp dev: %v", err)
	}
	tb.Cleanup(func() { end(tb, instance) })
	admin, err := instance.Admin()
	if err != nil {
		tb.Fatalf("use the admin token: %v", err)
	}
	return &Dev{Instance: instance, Admin: admin}
}

// end stops what the test has left running, and shows its log if the test
// failed.
func end(tb testing.TB, instance *icpdev.Instance) {
	select {
	case <-instance.Done():
	default:
		if err := instance.Stop(); err != nil {
			tb.Errorf("stop icp dev: %v", err)
		}
	}
	if tb.Failed() {
		log, _ := os.ReadFile(filepath.Join(instance.Dir, "icp-dev.log")) // as much as there is
		tb.Logf("icp dev printed:\n%s\nand logged:\n%s", instance.Tail(), log[max(0, len(log)-8192):])
	}
}

// ID gives the SPIFFE ID of the trust domain with this path.
func (d *Dev) ID(path string) string { return "spiffe://" + d.TrustDomain + path }

// Entry registers the ID with this path for a user of this host, and gives the
// entry's id. An empty ttl means the default.
func (d *Dev) Entry(tb testing.TB, path string, uid int, ttl string) string {
	tb.Helper()
	id, err := d.Admin.CreateEntry(tb.Context(), icpdev.Entry{
		SPIFFEID: d.ID(path), ParentID: d.AgentID, Selectors: []string{fmt.Sprintf("unix:uid:%d", uid)}, TTL: ttl,
	})
	if err != nil {
		tb.Fatalf("register %s: %v", path, err)
	}
	return id
}

// Delete removes an entry.
func (d *Dev) Delete(tb testing.TB, id string) {
	tb.Helper()
	if err := d.Admin.DeleteEntry(tb.Context(), id); err != nil {
		tb.Fatalf("delete the entry %s: %v", id, err)
	}
}

// Workload gives a client of the agent's socket, for this process.
func (d *Dev) Workload(tb testing.TB) *workloadapi.Client {
	tb.Helper()
	client, err := workloadapi.New(tb.Context(), workloadapi.WithAddr(d.AgentSocket))
	if err != nil {
		tb.Fatalf("open the Workload API: %v", err)
	}
	tb.Cleanup(func() { _ = client.Close() }) // its process may have ended
	return client
}

// Client calls the proxy with the identity of source, and no other server.
func (d *Dev) Client(tb testing.TB, source *workloadapi.X509Source) *http.Client {
	tb.Helper()
	proxy, err := spiffeid.FromString(d.ProxyID())
	if err != nil {
		tb.Fatal(err)
	}
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(proxy))
	return &http.Client{Timeout: Patience, Transport: &http.Transport{TLSClientConfig: config}}
}
