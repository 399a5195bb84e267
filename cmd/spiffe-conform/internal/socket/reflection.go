package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
)

// ErrNoReflection says that the endpoint has no server reflection.
var ErrNoReflection = errors.New("there is no server reflection")

// Reflected is what server reflection tells.
type Reflected struct {
	Services []string                            // full names
	Files    []*descriptorpb.FileDescriptorProto // that describe the Workload API
}

// WorkloadAPI is the service's full name; its proto file has no package.
const WorkloadAPI = "SpiffeWorkloadAPI"

// Reflect asks for the services and for the description of the Workload API.
// Endpoints without reflection give ErrNoReflection.
func Reflect(ctx context.Context, c *Client) (Reflected, error) {
	list, err := c.ask(ctx, &reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		return Reflected{}, err
	}
	var seen Reflected
	for _, service := range list.GetListServicesResponse().GetService() {
		seen.Services = append(seen.Services, service.GetName())
	}
	file, err := c.ask(ctx, &reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: WorkloadAPI}})
	if err != nil {
		return seen, err
	}
	if refusal := file.GetErrorResponse(); refusal != nil {
		return seen, fmt.Errorf("reflection does not describe %s: %s", WorkloadAPI, refusal.GetErrorMessage())
	}
	for _, raw := range file.GetFileDescriptorResponse().GetFileDescriptorProto() {
		described := new(descriptorpb.FileDescriptorProto)
		if err := proto.Unmarshal(raw, described); err != nil {
			return seen, fmt.Errorf("read a file descriptor: %w", err)
		}
		seen.Files = append(seen.Files, described)
	}
	return seen, nil
}

// ask puts one question in version 1 of reflection, or else in its forerunner,
// whose messages are the same on the wire.
func (c *Client) ask(ctx context.Context, question *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	answer, err := c.askIn(ctx, "v1", question)
	if status.Code(err) != codes.Unimplemented {
		return answer, err
	}
	answer, err = c.askIn(ctx, "v1alpha", question)
	if status.Code(err) == codes.Unimplemented {
		return nil, ErrNoReflection
	}
	return answer, err
}

func (c *Client) askIn(ctx context.Context, version string, question *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	method := "/grpc.reflection." + version + ".ServerReflection/ServerReflectionInfo"
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	_ = stream.SendMsg(question) // a failure shows in RecvMsg, with its status
	answer := new(reflectionv1.ServerReflectionResponse)
	return answer, stream.RecvMsg(answer)
}

// Lists says whether a service is among those that reflection names.
func (r Reflected) Lists(service string) bool {
	for _, name := range r.Services {
		if name == service {
			return true
		}
	}
	return false
}

// String names the services.
func (r Reflected) String() string { return strings.Join(r.Services, ", ") }
