package workloadapi_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/metadata"
)

// BenchmarkFetchX509SVIDWarm has a client in another process open a stream on
// its connection, take the first message and cancel, b.N times; attestation is
// done each time. The processor time, and allocations, are the agent's alone.
func BenchmarkFetchX509SVIDWarm(b *testing.B) { benchmark(b, "FetchX509SVID") }

// BenchmarkFetchJWTSVIDWarm fetches tokens. Most of it is the signature that the
// test's cache makes for each.
func BenchmarkFetchJWTSVIDWarm(b *testing.B) { benchmark(b, "FetchJWTSVID") }

// caller, when set, makes the test binary the client of a benchmark.
const caller = "ICP_TEST_CALLER"

func benchmark(b *testing.B, rpc string) {
	agent := start(b, web)
	cmd := exec.Command(os.Args[0], "-test.run=^TestCaller$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s,%s,%d", caller, agent.Socket, rpc, b.N))
	b.ReportAllocs()
	b.ResetTimer()
	before := cpu(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("the client: %v\n%s", err, out)
	}
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N), "agent-cpu-µs/op")
}

// TestCaller is the client of the benchmarks; alone it has nothing to do.
func TestCaller(t *testing.T) {
	socket, rest, ok := strings.Cut(os.Getenv(caller), ",")
	if !ok {
		return
	}
	rpc, count, _ := strings.Cut(rest, ",")
	var n int
	if _, err := fmt.Sscan(count, &n); err != nil {
		t.Fatal(err)
	}
	c := workload.NewSpiffeWorkloadAPIClient(dialSocket(t, "unix://"+socket))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true")
	for range n {
		ctx, cancel := context.WithCancel(ctx)
		if rpc == "FetchX509SVID" {
			next(t, must[x509Stream](t)(c.FetchX509SVID(ctx, &workload.X509SVIDRequest{})))
		} else {
			must[*workload.JWTSVIDResponse](t)(c.FetchJWTSVID(ctx, &workload.JWTSVIDRequest{Audience: []string{"db"}}))
		}
		cancel()
	}
}

// cpu gives the processor time of this process so far.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
