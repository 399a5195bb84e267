package workloadapi_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/authsec-ai/icp/agent/agenttest"
	"github.com/authsec-ai/icp/e2e/stage"
)

// TestLimits has the threats against the agent's availability.
func TestLimits(t *testing.T) {
	t.Run("T-32", headerRule)
	t.Run("T-34/too many streams", tooManyStreams)
	t.Run("T-34/slow reader", slowReader)
}

func tooManyStreams(t *testing.T) {
	const limit = 5
	agent := startWith(t, agenttest.Options{MaxRequestsPerUID: limit}, web)
	var open []*grpc.ClientConn
	for range limit {
		conn := dial(t, agent) // several connections: the limit is the user's
		stream := must[x509Stream](t)(workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(call(t), &workload.X509SVIDRequest{}))
		next(t, stream)
		open = append(open, conn)
	}
	c := client(t, agent)
	t.Run("refused", func(t *testing.T) {
		for _, rpc := range rpcs {
			t.Run(rpc.name, func(t *testing.T) { wantCode(t, rpc.call(call(t), c), codes.ResourceExhausted) })
		}
	})
	t.Run("twin", func(t *testing.T) { // room is made by whoever leaves
		if err := open[0].Close(); err != nil {
			t.Fatal(err)
		}
		stage.Eventually(t, patience, func() error { return rpcs[0].call(call(t), c) })
	})
}

// bigBundle gives an update that does not fit into what gRPC buffers.
func bigBundle(agent *agenttest.Agent, copies int) *spiffebundle.Bundle {
	big := spiffebundle.New(spiffeid.RequireTrustDomainFromString("big.test"))
	raw := agent.Authority.Bundle().X509Authorities()[0].Raw
	var list []*x509.Certificate
	for range copies {
		list = append(list, &x509.Certificate{Raw: raw})
	}
	big.SetX509Authorities(list)
	return big
}

func slowReader(t *testing.T) {
	agent := startWith(t, agenttest.Options{SendTimeout: 200 * time.Millisecond}, web)
	agent.Cache.SetBundle(bigBundle(agent, 2000))
	conn := must[*grpc.ClientConn](t)(grpc.NewClient(agent.Addr(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStaticStreamWindowSize(65535)))
	defer conn.Close()
	slow := must[x509Stream](t)(workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(call(t), &workload.X509SVIDRequest{}))
	t.Run("refused", func(t *testing.T) { // it never reads, and is cut off on the agent's side
		stage.Eventually(t, patience, func() error {
			agent.Cache.Put(agenttest.Entry{ID: web, Selector: me}) // one more message to queue
			if log := agent.Log(); !strings.Contains(log, "did not read a message") {
				return fmt.Errorf("the log has %q", log)
			}
			return nil
		})
	})
	t.Run("twin", func(t *testing.T) { // others go on, and so do readers of big messages
		if _, message := openX509(t, agent); len(message.FederatedBundles) != 1 {
			t.Error("the big message did not arrive")
		}
	})
	t.Run("end", func(t *testing.T) { // it reads at last: what was queued, then why it was cut off
		for {
			if _, err := slow.Recv(); err != nil {
				wantCode(t, err, codes.ResourceExhausted)
				return
			}
		}
	})
}

// TestExecSwap: a stream whose process becomes another program ends at the next
// send, before anything is sent.
func TestExecSwap(t *testing.T) {
	for name, program := range map[string]string{"refused": "/bin/sleep", "twin": ""} {
		t.Run(name, func(t *testing.T) { execSwap(t, program) })
	}
}

// swapper, when set, makes the test binary a client that opens a stream and
// then becomes the program.
const swapper = "ICP_TEST_SWAP"

func execSwap(t *testing.T, program string) {
	agent := start(t, web)
	cmd := exec.Command(os.Args[0], "-test.run=^TestSwapper$")
	cmd.Env = append(os.Environ(), swapper+"="+agent.Socket+","+program)
	out := must[io.ReadCloser](t)(cmd.StdoutPipe())
	stage.Start(t, "swapper", cmd)
	line := make([]byte, 6)
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "stream" {
		t.Fatalf("the client printed %q (%v)", line, err)
	}
	if program != "" {
		waitForProgram(t, cmd.Process.Pid, program)
	}
	agent.Cache.Put(agenttest.Entry{ID: web, Selector: me})
	refused := func() error {
		if log := agent.Log(); !strings.Contains(log, "has changed its program") {
			return fmt.Errorf("the log has %q", log)
		}
		return nil
	}
	if program != "" {
		stage.Eventually(t, patience, refused)
		return
	}
	if _, err := io.ReadFull(out, line); err != nil || string(line) != "second" {
		t.Errorf("the unchanged client printed %q (%v)", line, err)
	}
}

func waitForProgram(t *testing.T, pid int, program string) {
	t.Helper()
	want := must[os.FileInfo](t)(os.Stat(program))
	stage.Eventually(t, patience, func() error {
		got, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
		if err == nil && !os.SameFile(got, want) {
			err = fmt.Errorf("process %d is not yet %s", pid, program)
		}
		return err
	})
}

// TestSwapper is the client of TestExecSwap; alone it has nothing to do.
func TestSwapper(t *testing.T) {
	socket, program, ok := strings.Cut(os.Getenv(swapper), ",")
	if !ok {
		return
	}
	conn := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///"+socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dialInherited)))
	stream := must[x509Stream](t)(workload.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(call(t), &workload.X509SVIDRequest{}))
	next(t, stream)
	fmt.Print("stream")
	if program != "" {
		t.Fatal(syscall.Exec(program, []string{program, "60"}, nil))
	}
	next(t, stream)
	fmt.Print("second")
}

// dialInherited connects by a descriptor that stays open over exec.
func dialInherited(ctx context.Context, socket string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { _, failed = unix.FcntlInt(fd, unix.F_SETFD, 0) })
	return conn, errors.Join(err, failed)
}

// TestMetrics reads what the guard counts.
func TestMetrics(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	agent := startWith(t, agenttest.Options{Meter: meter}, web)
	openX509(t, agent)
	wantCode(t, rpcs[2].call(call(t), client(t, agent)), codes.OK)
	wantCode(t, rpcs[2].call(with(t), client(t, agent)), codes.InvalidArgument)
	var data metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &data); err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for _, m := range data.ScopeMetrics[0].Metrics {
		for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
			code, _ := point.Attributes.Value(attribute.Key("code"))
			method, _ := point.Attributes.Value(attribute.Key("method"))
			got[m.Name+" "+method.AsString()+" "+code.AsString()] = point.Value
		}
	}
	for name, want := range map[string]int64{
		"icp_agent_rpcs /SpiffeWorkloadAPI/FetchJWTSVID OK":              1,
		"icp_agent_rpcs /SpiffeWorkloadAPI/FetchJWTSVID InvalidArgument": 1,
		"icp_agent_streams /SpiffeWorkloadAPI/FetchX509SVID ":            1,
	} {
		if got[name] != want {
			t.Errorf("%s is %d, want %d; all: %v", name, got[name], want, got)
		}
	}
}
