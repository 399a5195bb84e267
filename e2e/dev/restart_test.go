package dev

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/stage"
)

// state is what a restart on the same folder must keep.
type state struct {
	Addresses any             // all of dev.json but the process
	Bundle    json.RawMessage // the bundle document's keys
	Entries   json.RawMessage
	Policies  json.RawMessage
	SVIDs     []form // in the order of the Workload API
	JWTs      []string
}

// form is what can be compared of two SVIDs of one workload.
type form struct {
	ID       string
	Lifetime time.Duration
	Chain    int                // certificates
	Issuer   string             // of the leaf
	Usage    x509.KeyUsage      // of the leaf
	Extended []x509.ExtKeyUsage // of the leaf
}

// TestKill9 kills it as a power cut would, and starts it again.
func TestKill9(t *testing.T) {
	dir := filepath.Join(stage.Folder(t), "dev")
	first := devtest.StartOn(t, dir)
	for _, path := range []string{"/second", "/a", "/third"} { // neither by name nor by lifetime in order
		first.Entry(t, path, os.Getuid(), map[string]string{"/a": "7m"}[path])
	}
	awaitSVIDs(t, first, 4)
	before := stateOf(t, first)
	first.Kill()
	if _, err := os.Stat(filepath.Join(dir, "agent.sock")); err != nil {
		t.Fatalf("kill -9 left no stale socket to clear: %v", err)
	}
	second := devtest.StartOn(t, dir)
	awaitSVIDs(t, second, 4)
	after := stateOf(t, second)
	if len(before.SVIDs) != 4 || before.SVIDs[0].ID != second.ID("/dev") || before.SVIDs[0].Chain != 2 {
		t.Errorf("before: %+v; want /dev first, with leaf and issuing authority", before.SVIDs)
	}
	for i := range reflect.TypeFor[state]().NumField() {
		was, is := reflect.ValueOf(before).Field(i).Interface(), reflect.ValueOf(after).Field(i).Interface()
		if !reflect.DeepEqual(was, is) {
			t.Errorf("%s were\n%s\nand are\n%s", reflect.TypeFor[state]().Field(i).Name, show(was), show(is))
		}
	}
	if first.PID == second.PID {
		t.Error("dev.json still names the old process")
	}
}

// awaitSVIDs waits for the agent to offer this process n identities.
func awaitSVIDs(t *testing.T, d *devtest.Dev, n int) {
	t.Helper()
	client := d.Workload(t)
	stage.Eventually(t, devtest.Patience, func() error {
		svids, err := client.FetchX509SVIDs(t.Context())
		if err == nil && len(svids) != n {
			err = fmt.Errorf("%d identities, want %d", len(svids), n)
		}
		return err
	})
}

func show(v any) string {
	if raw, isRaw := v.(json.RawMessage); isRaw {
		return string(raw)
	}
	raw, _ := json.MarshalIndent(v, "", "  ")
	return string(raw)
}

func stateOf(t *testing.T, d *devtest.Dev) state {
	t.Helper()
	info := d.Info
	info.PID = 0
	s := state{Addresses: info}
	var bundle struct{ Keys json.RawMessage }
	for path, out := range map[string]any{
		"/bundles/" + d.TrustDomain: &bundle, "/api/v1/workloads": &s.Entries, "/api/v1/policies": &s.Policies,
	} {
		if _, err := d.Admin.Do(t.Context(), http.MethodGet, path, nil, out); err != nil {
			t.Fatal(err)
		}
	}
	s.Bundle = bundle.Keys
	client := d.Workload(t)
	svids, err := client.FetchX509SVIDs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, svid := range svids {
		leaf := svid.Certificates[0]
		s.SVIDs = append(s.SVIDs, form{
			ID: svid.ID.String(), Lifetime: leaf.NotAfter.Sub(leaf.NotBefore), Chain: len(svid.Certificates),
			Issuer: leaf.Issuer.String(), Usage: leaf.KeyUsage, Extended: leaf.ExtKeyUsage,
		})
	}
	tokens, err := client.FetchJWTSVIDs(t.Context(), jwtsvid.Params{Audience: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	for i, token := range tokens {
		s.JWTs = append(s.JWTs, token.ID.String())
		if i >= len(s.SVIDs) || s.SVIDs[i].ID != token.ID.String() {
			t.Errorf("JWT-SVID %d is %s; want the order of the X.509-SVIDs", i, token.ID)
		}
	}
	return s
}
