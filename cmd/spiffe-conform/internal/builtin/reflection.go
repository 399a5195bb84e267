package builtin

import (
	"fmt"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/authsec-ai/icp/cmd/spiffe-conform/internal/socket"
)

// names are the services that reflection lists.
type names []string

// GetServiceInfo gives them.
func (n names) GetServiceInfo() map[string]grpc.ServiceInfo {
	list := map[string]grpc.ServiceInfo{}
	for _, name := range n {
		list[name] = grpc.ServiceInfo{}
	}
	return list
}

func (s *Server) registerReflection(server *grpc.Server) error {
	if s.behaviour.NoReflection {
		return nil
	}
	files, err := s.described()
	if err != nil {
		return err
	}
	services := names(s.behaviour.Services)
	if services == nil {
		services = names{socket.WorkloadAPI, "grpc.reflection.v1.ServerReflection"}
	}
	reflectionv1.RegisterServerReflectionServer(server, reflection.NewServerV1(reflection.ServerOptions{
		Services: services, DescriptorResolver: files, ExtensionResolver: new(protoregistry.Types),
	}))
	return nil
}

// described gives the file of the Workload API, as the behaviour has it.
func (s *Server) described() (*protoregistry.Files, error) {
	files := new(protoregistry.Files)
	if err := files.RegisterFile(structpb.File_google_protobuf_struct_proto); err != nil {
		return nil, fmt.Errorf("describe the service: %w", err)
	}
	described := protodesc.ToFileDescriptorProto(workload.File_workload_proto)
	if s.behaviour.Describe != nil {
		s.behaviour.Describe(described)
	}
	file, err := protodesc.NewFile(described, files)
	if err != nil {
		return nil, fmt.Errorf("describe the service: %w", err)
	}
	if err := files.RegisterFile(file); err != nil {
		return nil, fmt.Errorf("describe the service: %w", err)
	}
	return files, nil
}
