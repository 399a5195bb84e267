package workloadapi_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/health/grpc_health_v1" // linked, and yet not to be shown
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/authsec-ai/icp/agent/agenttest"
	"github.com/authsec-ai/icp/identity"
)

// TestWLEP has the rows of the Workload Endpoint standard.
func TestWLEP(t *testing.T) {
	t.Run("WLEP-02", func(t *testing.T) { plainSocketIsServed(t) })
	t.Run("WLEP-05", headerRule)
	t.Run("WLEP-06", func(t *testing.T) { plainSocketIsServed(t) })
	t.Run("WLEP-11", func(t *testing.T) { plainSocketIsServed(t) })
	t.Run("WLEP-14", notReady)
	t.Run("WLEP-15", noIdentity)
	t.Run("WLEP-16", descriptorsUnchanged)
	t.Run("WLEP-17", func(t *testing.T) { reflectionLists(t, "SpiffeWorkloadAPI") })
	t.Run("WLEP-18", reflectionRules)
	t.Run("WLEP-19", unknownMethods)
}

// plainSocketIsServed: gRPC without TLS, without any credential of the client's.
func plainSocketIsServed(t *testing.T) {
	agent := start(t, web)
	message := must[*workload.X509SVIDResponse](t)(first(client(t, agent).FetchX509SVID(call(t), &workload.X509SVIDRequest{})))
	if got := message.Svids[0].SpiffeId; got != web.String() {
		t.Errorf("served as %q, want %q by attestation alone", got, web)
	}
}

// badHeaders are metadata that must not pass; true,true is one value with a
// comma.
var badHeaders = map[string][]string{
	"absent":      {},
	"capitalised": {"workload.spiffe.io", "True"},
	"upper case":  {"workload.spiffe.io", "TRUE"},
	"one":         {"workload.spiffe.io", "1"},
	"empty":       {"workload.spiffe.io", ""},
	"false":       {"workload.spiffe.io", "false"},
	"space":       {"workload.spiffe.io", " true"},
	"comma":       {"workload.spiffe.io", "true,true"},
	"twice":       {"workload.spiffe.io", "true", "workload.spiffe.io", "true"},
	"false, true": {"workload.spiffe.io", "false", "workload.spiffe.io", "true"},
	"binary":      {"workload.spiffe.io-bin", "true"},
	"other name":  {"workload-spiffe-io", "true"},
}

func headerRule(t *testing.T) {
	for _, rpc := range rpcs {
		agent := start(t, web)
		c := client(t, agent)
		for name, pairs := range badHeaders {
			t.Run("refused/"+rpc.name+"/"+name, func(t *testing.T) {
				wantCode(t, rpc.call(with(t, pairs...), c), codes.InvalidArgument)
			})
		}
		if n := agent.Attestations(); n != 0 {
			t.Errorf("%s: %d attestations happened before the header was looked at", rpc.name, n)
		}
		t.Run("twin/"+rpc.name, func(t *testing.T) { wantCode(t, rpc.call(call(t), c), rpc.good) })
	}
}

func notReady(t *testing.T) {
	agent := start(t, web)
	agent.Cache.SetReady(false)
	c := client(t, agent)
	for _, rpc := range rpcs {
		if rpc.good == codes.OK {
			t.Run("refused/"+rpc.name, func(t *testing.T) { wantCode(t, rpc.call(call(t), c), codes.Unavailable) })
		}
	}
	agent.Cache.SetReady(true)
	t.Run("twin", func(t *testing.T) { wantCode(t, rpcs[0].call(call(t), c), codes.OK) })
}

func noIdentity(t *testing.T) {
	agent := start(t)
	agent.Cache.Put(agenttest.Entry{ID: web, Selector: other})
	c := client(t, agent)
	for _, rpc := range rpcs {
		if rpc.good == codes.OK {
			t.Run("refused/"+rpc.name, func(t *testing.T) { wantCode(t, rpc.call(call(t), c), codes.PermissionDenied) })
		}
	}
	agent.Cache.Put(agenttest.Entry{ID: web, Selector: me})
	t.Run("twin", func(t *testing.T) { wantCode(t, rpcs[0].call(call(t), c), codes.OK) })
}

// descriptorsUnchanged compares what the socket says of its service with the
// standard's own file.
func descriptorsUnchanged(t *testing.T) {
	answer := reflect(t, call(t), start(t, web), fileOf("SpiffeWorkloadAPI"))
	want := protodesc.ToFileDescriptorProto(workload.File_workload_proto)
	if want.GetPackage() != "" || len(want.Service) != 1 || len(want.Service[0].Method) != 7 {
		t.Fatalf("the standard's file has package %q and services %v", want.GetPackage(), want.Service)
	}
	for _, raw := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
		var got descriptorpb.FileDescriptorProto
		if err := proto.Unmarshal(raw, &got); err != nil {
			t.Fatal(err)
		}
		if got.GetName() == want.GetName() && !proto.Equal(&got, want) {
			t.Errorf("the socket's %s differs from the standard's", got.GetName())
		} else if got.GetName() == want.GetName() {
			return
		}
	}
	t.Errorf("reflection does not describe %s", want.GetName())
}

func reflectionRules(t *testing.T) {
	agent := start(t, web)
	t.Run("refused/without header", func(t *testing.T) {
		_, err := tryReflect(with(t), t, agent, listServices)
		wantCode(t, err, codes.InvalidArgument)
	})
	t.Run("refused/linked but not served", func(t *testing.T) {
		answer := reflect(t, call(t), agent, fileOf("grpc.health.v1.Health"))
		if code := codes.Code(answer.GetErrorResponse().GetErrorCode()); code != codes.NotFound {
			t.Errorf("answered %s, want NotFound: %v", code, answer)
		}
	})
	t.Run("twin", func(t *testing.T) {
		reflectionLists(t, "SpiffeWorkloadAPI", "envoy.service.secret.v3.SecretDiscoveryService",
			"grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
	})
}

var listServices = &reflectionv1.ServerReflectionRequest{
	MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
}

func fileOf(symbol string) *reflectionv1.ServerReflectionRequest {
	return &reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: symbol},
	}
}

// reflectionLists wants the services in the list; more than one are the whole.
func reflectionLists(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, service := range reflect(t, call(t), start(t, web), listServices).GetListServicesResponse().GetService() {
		got = append(got, service.GetName())
	}
	slices.Sort(got)
	if len(want) == 1 && slices.Contains(got, want[0]) {
		return
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("reflection lists %q, want %q", got, want)
	}
}

func reflect(t *testing.T, ctx context.Context, agent *agenttest.Agent, req *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
	t.Helper()
	return must[*reflectionv1.ServerReflectionResponse](t)(tryReflect(ctx, t, agent, req))
}

func tryReflect(ctx context.Context, t *testing.T, agent *agenttest.Agent, req *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	stream, err := reflectionv1.NewServerReflectionClient(dial(t, agent)).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(req); err != nil && err != io.EOF { // EOF: Recv has the status
		return nil, err
	}
	return stream.Recv()
}

func unknownMethods(t *testing.T) {
	agent := start(t, web)
	conn := dial(t, agent)
	for _, method := range []string{"/SpiffeWorkloadAPI/FetchEverything", "/SpiffeWorkloadAPI2/FetchX509SVID", "/spiffeworkloadapi/FetchX509SVID"} {
		t.Run("refused"+method, func(t *testing.T) {
			wantCode(t, conn.Invoke(call(t), method, &emptypb.Empty{}, &emptypb.Empty{}), codes.Unimplemented)
		})
	}
	for _, path := range []string{"SpiffeWorkloadAPI/FetchJWTSVID", "FetchJWTSVID", "//FetchJWTSVID"} {
		t.Run("refused/path "+path, func(t *testing.T) {
			if got := rawStatus(t, agent.Socket, path); got != codes.Unimplemented {
				t.Errorf("answered %s, want Unimplemented", got)
			}
		})
	}
	if n := agent.Attestations(); n != 0 {
		t.Errorf("%d attestations: a handler has run", n)
	}
	t.Run("twin", func(t *testing.T) { // the handler runs, and wants an audience
		if got := rawStatus(t, agent.Socket, "/SpiffeWorkloadAPI/FetchJWTSVID"); got != codes.InvalidArgument {
			t.Errorf("answered %s, want InvalidArgument", got)
		}
	})
}

// rawStatus sends one request with any :path, which no gRPC client would, and
// gives the grpc-status of the answer.
func rawStatus(t *testing.T, socket, path string) codes.Code {
	t.Helper()
	conn := must[net.Conn](t)(net.Dial("unix", socket))
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":authority", "localhost"}, {":path", path},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"workload.spiffe.io", "true"},
	} {
		_ = encoder.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}) // a bytes.Buffer does not fail
	}
	for _, err := range []error{
		framer.WriteSettings(),
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}),
		framer.WriteData(1, true, make([]byte, 5)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return readStatus(t, framer)
}

func readStatus(t *testing.T, framer *http2.Framer) codes.Code {
	t.Helper()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatalf("read the answer: %v", err)
		}
		headers, ok := frame.(*http2.MetaHeadersFrame)
		if !ok {
			continue
		}
		for _, field := range headers.Fields {
			var code codes.Code
			if field.Name == "grpc-status" && code.UnmarshalJSON([]byte(field.Value)) == nil {
				return code
			}
		}
	}
}

// TestStatusTable says which gRPC code each of our codes is.
func TestStatusTable(t *testing.T) {
	for code, want := range map[identity.Code]codes.Code{
		identity.Invalid:         codes.InvalidArgument,
		identity.Unauthenticated: codes.Unauthenticated,
		identity.Denied:          codes.PermissionDenied,
		identity.NotFound:        codes.NotFound,
		identity.RateLimited:     codes.ResourceExhausted,
		identity.Unavailable:     codes.Unavailable,
		identity.Internal:        codes.Internal,
		"no such code":           codes.Internal,
	} {
		t.Run(string(code), func(t *testing.T) {
			agent := start(t, web)
			secret := fmt.Errorf("dial 10.0.0.7: refused")
			agent.Cache.Fail(fmt.Errorf("fetch: %w", &identity.Error{Code: code, Message: "say this", Err: secret}))
			err := rpcs[0].call(call(t), client(t, agent))
			wantCode(t, err, want)
			message := status.Convert(err).Message()
			if strings.Contains(message, "10.0.0.7") {
				t.Errorf("the caller is told the cause: %s", message)
			}
			if !strings.Contains(agent.Log(), "10.0.0.7") {
				t.Errorf("the log does not have the cause: %s", agent.Log())
			}
		})
	}
}

// TestRefusalIsLogged wants one line per refusal with who and why.
func TestRefusalIsLogged(t *testing.T) {
	agent := start(t)
	wantCode(t, rpcs[0].call(call(t), client(t, agent)), codes.PermissionDenied)
	lines := strings.Split(strings.TrimSpace(agent.Log()), "\n")
	if len(lines) != 1 {
		t.Fatalf("the refusal left %d lines: %q", len(lines), lines)
	}
	for _, want := range []string{`"code":"PermissionDenied"`, `"method":"/SpiffeWorkloadAPI/FetchX509SVID"`, `"pid":`, `"uid":`, "no identity issued"} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("the line lacks %s: %s", want, lines[0])
		}
	}
}
