package selftest

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/builtin"
	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

func endpointBreakages() []Breakage {
	return slices.Concat(headerBreakages(), strangerBreakages(), reflectionBreakages(), []Breakage{
		{Row: "WLEP-02", Name: "HTTP/1.1", Says: "HTTP/2", Behaviour: builtin.Behaviour{HTTP1: true}},
		{Row: "WLEP-02", Name: "TLS", Says: "HTTP/2", Behaviour: builtin.Behaviour{TLS: true}, Quick: true},
		{Row: "WLEP-06", Name: "TLS required", Says: "without TLS", Behaviour: builtin.Behaviour{TLS: true}, Quick: true},
		{Row: "WLEP-11", Name: "a bearer token required", Says: "without credentials", Behaviour: builtin.Behaviour{Admit: wantsBearer}},
		{Row: "WLEP-17", Name: "another service alone", Says: "reflection lists", Behaviour: builtin.Behaviour{Services: []string{"Another"}}},
		{Row: "WLEP-17", Name: "no method there", Says: "none of its methods answers", Behaviour: builtin.Behaviour{Refuse: unimplemented}},
		{Row: "WLEP-19", Name: "unknown methods served", Says: "NoSuchMethod gives OK", Behaviour: builtin.Behaviour{Unknown: serveAnything}},
		{Row: "WLEP-19", Name: "unknown methods denied", Says: "NoSuchMethod gives PermissionDenied", Behaviour: builtin.Behaviour{Unknown: denyAnything}},
	})
}

// headerBreakages let in what is almost the header.
func headerBreakages() []Breakage {
	lax := func(name, says string, good func(values []string) bool) Breakage {
		return Breakage{Row: "WLEP-05", Name: name, Says: says, Behaviour: builtin.Behaviour{Admit: func(method string, header metadata.MD, known bool) error {
			if good(header.Get(socket.HeaderKey)) {
				header = metadata.Pairs(socket.HeaderKey, "true")
			}
			return builtin.Admit(method, header, known)
		}}}
	}
	return []Breakage{
		lax("no header needed", "with the header absent gives OK", func([]string) bool { return true }),
		lax("any value", "with the header empty gives OK", func(values []string) bool { return len(values) > 0 }),
		lax("case ignored", "with the header True gives OK", func(values []string) bool { return len(values) == 1 && strings.EqualFold(values[0], "true") }),
		lax("1 taken for true", "with the header 1 gives OK", func(values []string) bool { return slices.Contains(values, "1") }),
		lax("a prefix enough", "with the header truex gives OK", func(values []string) bool { return len(values) == 1 && strings.HasPrefix(values[0], "true") }),
		lax("space trimmed", "with the header space before true gives OK", func(values []string) bool { return len(values) == 1 && strings.TrimSpace(values[0]) == "true" }),
		lax("a list of values", "with the header true,true gives OK", func(values []string) bool { return len(values) == 1 && strings.Split(values[0], ",")[0] == "true" }),
		lax("the last value counts", "with the header false and true gives OK", func(values []string) bool { return len(values) > 0 && values[len(values)-1] == "true" }),
		{Row: "WLEP-05", Name: "another code", Says: "with the header absent gives Unauthenticated", Behaviour: builtin.Behaviour{Admit: unauthenticatedHeader}},
		{Row: "WLEP-05", Name: "the caller looked at first", Says: "from a caller without an identity, gives PermissionDenied", Behaviour: builtin.Behaviour{Admit: callerFirst}},
	}
}

func unauthenticatedHeader(method string, header metadata.MD, known bool) error {
	if len(header.Get(socket.HeaderKey)) == 0 {
		return status.Error(codes.Unauthenticated, "no header")
	}
	return builtin.Admit(method, header, known)
}

func callerFirst(method string, header metadata.MD, known bool) error {
	if !known {
		return status.Error(codes.PermissionDenied, "no identity")
	}
	return builtin.Admit(method, header, known)
}

func wantsBearer(method string, header metadata.MD, known bool) error {
	if err := builtin.Admit(method, header, known); err != nil {
		return err
	}
	if len(header.Get("authorization")) == 0 {
		return status.Error(codes.Unauthenticated, "no bearer token")
	}
	return nil
}

func strangerBreakages() []Breakage {
	toStranger := func(name, says string, answer error) Breakage {
		return Breakage{Row: "WLEP-15", Name: name, Says: says, Behaviour: builtin.Behaviour{Admit: func(method string, header metadata.MD, known bool) error {
			if !known && len(header.Get(socket.HeaderKey)) > 0 {
				return answer
			}
			return builtin.Admit(method, header, known)
		}}}
	}
	return []Breakage{
		toStranger("everybody is served", "FetchX509SVID gives OK", nil),
		toStranger("an unknown caller is NotFound", "FetchX509SVID gives NotFound", status.Error(codes.NotFound, "no identity")),
		toStranger("an unknown caller is Unauthenticated", "FetchX509SVID gives Unauthenticated", status.Error(codes.Unauthenticated, "no identity")),
	}
}

func reflectionBreakages() []Breakage {
	describe := func(name, says string, edit func(*descriptorpb.FileDescriptorProto)) Breakage {
		return Breakage{Row: "WLEP-16", Name: name, Says: says, Behaviour: builtin.Behaviour{Describe: edit}}
	}
	return []Breakage{
		describe("a method more", "rpc SpiffeWorkloadAPI.FetchSecret was added", func(f *descriptorpb.FileDescriptorProto) {
			f.Service[0].Method = append(f.Service[0].Method, &descriptorpb.MethodDescriptorProto{
				Name: proto.String("FetchSecret"), InputType: proto.String(".X509SVIDRequest"), OutputType: proto.String(".X509SVIDResponse")})
		}),
		describe("a field more", "field X509SVIDRequest.tenant was added", func(f *descriptorpb.FileDescriptorProto) {
			f.MessageType[0].Field = append(f.MessageType[0].Field, &descriptorpb.FieldDescriptorProto{
				Name: proto.String("tenant"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
				Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum()})
		}),
		describe("a method that no longer streams", "rpc SpiffeWorkloadAPI.FetchX509SVID is", func(f *descriptorpb.FileDescriptorProto) {
			f.Service[0].Method[0].ServerStreaming = proto.Bool(false)
		}),
		{Row: "WLEP-18", Name: "no reflection", Says: "there is no server reflection", Behaviour: builtin.Behaviour{NoReflection: true}},
		{Row: "WLEP-18", Name: "an empty list", Says: "reflection lists no service", Behaviour: builtin.Behaviour{Services: []string{}}},
	}
}

func unimplemented(method string, _ any) error {
	if builtin.IsWorkloadAPI(method) {
		return status.Error(codes.Unimplemented, "not here")
	}
	return nil
}

func serveAnything(_ any, stream grpc.ServerStream) error {
	return stream.SendMsg(&workload.X509SVIDResponse{})
}

func denyAnything(any, grpc.ServerStream) error { return status.Error(codes.PermissionDenied, "no") }
