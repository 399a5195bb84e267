package socket

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
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
	answer, err := c.askV1(ctx, question)
	if status.Code(err) != codes.Unimplemented {
		return answer, err
	}
	answer, err = c.askV1Alpha(ctx, question)
	if status.Code(err) == codes.Unimplemented {
		return nil, ErrNoReflection
	}
	return answer, err
}

func (c *Client) askV1(ctx context.Context, question *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := reflectionv1.NewServerReflectionClient(c.conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	_ = stream.Send(question) // a failure shows in Recv, with its status
	return stream.Recv()
}

func (c *Client) askV1Alpha(ctx context.Context, question *reflectionv1.ServerReflectionRequest) (*reflectionv1.ServerReflectionResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	old, answer := new(reflectionv1alpha.ServerReflectionRequest), new(reflectionv1.ServerReflectionResponse)
	if err := translate(question, old); err != nil {
		return nil, err
	}
	stream, err := reflectionv1alpha.NewServerReflectionClient(c.conn).ServerReflectionInfo(ctx)
	if err != nil {
		return nil, err
	}
	_ = stream.Send(old) // a failure shows in Recv, with its status
	reply, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	return answer, translate(reply, answer)
}

func translate(from, to proto.Message) error {
	raw, err := proto.Marshal(from)
	if err != nil {
		return fmt.Errorf("encode a reflection message: %w", err)
	}
	return proto.Unmarshal(raw, to)
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
