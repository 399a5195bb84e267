// Command check starts every component of the stage, prints what each has shown
// of itself, and shows that nothing of them is left.
//
//	go run ./e2e/stage/check            all
//	go run ./e2e/stage/check NAME…      those whose names begin so
//	go run ./e2e/stage/check -left RUN  what the run of that name has left
//
// Ctrl-C ends it at once, and the stage's keeper what it has started.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/authsec-ai/icp/e2e/stage"
	"github.com/authsec-ai/icp/e2e/stage/browser"
	"github.com/authsec-ai/icp/e2e/stage/docker"
	"github.com/authsec-ai/icp/e2e/stage/envoy"
	"github.com/authsec-ai/icp/e2e/stage/fault"
	"github.com/authsec-ai/icp/e2e/stage/kubernetes"
	"github.com/authsec-ai/icp/e2e/stage/metadata"
	"github.com/authsec-ai/icp/e2e/stage/oidc"
	"github.com/authsec-ai/icp/e2e/stage/pg"
	"github.com/authsec-ai/icp/e2e/stage/podman"
	"github.com/authsec-ai/icp/e2e/stage/softhsm"
	"github.com/authsec-ai/icp/e2e/stage/swtpm"
	"github.com/authsec-ai/icp/e2e/stage/verifier"
)

// component is a part of the stage and how it proves itself.
type component struct {
	name  string
	prove func(stage.T) stage.Proof
}

// components in the order in which they are shown.
var components = []component{
	{"PostgreSQL 15", pg.Prove15},
	{"PostgreSQL 18", pg.Prove18},
	{"PostgreSQL standby", pg.ProveStandby},
	{"SoftHSM", softhsm.Prove},
	{"swtpm", swtpm.Prove},
	{"Docker", docker.Prove},
	{"Docker, cgroups v2", docker.ProveV2},
	{"Podman", podman.Prove},
	{"Podman, cgroups v2", podman.ProveV2},
	{"Kubernetes control plane", kubernetes.ProveControlPlane},
	{"Kubernetes cluster", kubernetes.ProveCluster},
	{"Envoy", envoy.Prove},
	{"OpenID provider", oidc.Prove},
	{"Chromium", browser.Prove},
	{"metadata service of AWS", metadata.ProveAWS},
	{"metadata service of GCP", metadata.ProveGCP},
	{"metadata service of Azure", metadata.ProveAzure},
	{"verifier nginx", verifier.ProveNginx},
	{"verifier HAProxy", verifier.ProveHAProxy},
	{"verifier OpenSSL", verifier.ProveOpenSSL},
	{"verifier GnuTLS", verifier.ProveGnuTLS},
	{"verifier Java", verifier.ProveJava},
	{"verifier Python", verifier.ProvePython},
	{"verifier pyca", verifier.ProvePyca},
	{"verifier PostgreSQL", verifier.ProvePostgres},
	{"fault proxy", fault.Prove},
}

func main() {
	left := flag.String("left", "", "start nothing; report what the run of this name has left")
	flag.Parse()
	failed := false
	if *left == "" {
		failed = !proveAll(flag.Args())
		*left = stage.RunID()
	}
	if !nothingLeft(*left) || failed {
		os.Exit(1)
	}
}

// proveAll says whether every component that is asked for has proven itself.
func proveAll(names []string) bool {
	from, shown, failed := time.Now(), 0, 0
	for _, c := range components {
		if !asked(c.name, names) {
			continue
		}
		shown++
		var proof stage.Proof
		if err := stage.Run(context.Background(), func(s *stage.Session) { proof = c.prove(s) }); err != nil {
			failed++
			fmt.Printf("%-30s FAILED\n%v\n", c.name, err)
			continue
		}
		fmt.Printf("%-30s %-16s ready in %.2fs\n%s", c.name, proof.Version, proof.Ready.Seconds(), wrap(proof.Fact))
	}
	fmt.Printf("%d components in %.0fs, %d failed\n", shown, time.Since(from).Seconds(), failed)
	if shown == 0 {
		fmt.Println("no component has such a name")
	}
	return failed == 0 && shown > 0
}

// wrap breaks a text into indented lines.
func wrap(text string) string {
	const width = 96
	var out strings.Builder
	line := ""
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > width && line != "" {
			fmt.Fprintf(&out, "   %s\n", line)
			line = ""
		}
		line += " " + word
	}
	fmt.Fprintf(&out, "   %s\n", line)
	return out.String()
}

func asked(name string, names []string) bool {
	for _, n := range names {
		if strings.HasPrefix(strings.ToLower(name), strings.ToLower(n)) {
			return true
		}
	}
	return len(names) == 0
}

// nothingLeft prints what a run has left and says whether that is nothing.
func nothingLeft(run string) bool {
	var left []string
	for range 150 { // those that undo what a killed program has left may be at work
		var err error
		if left, err = stage.Left(run); err != nil {
			fmt.Fprintln(os.Stderr, "look for what is left:", err)
			return false
		}
		if len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if len(left) > 0 {
		fmt.Printf("left behind by run %s:\n%s\n", run, strings.Join(left, "\n"))
		return false
	}
	fmt.Println("nothing is left: no process, folder, control group, mount or network namespace")
	return true
}
