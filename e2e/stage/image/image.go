// Package image makes container images from nothing but a static program: no
// base image, no registry. docker, podman and containerd all load what it writes.
package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/authsec-ai/icp/e2e/stage"
)

// Spec says what an image is.
type Spec struct {
	Name       string            // with tag: "icp.test/web:1.2"; an engine may put its own registry before one without
	Binary     string            // a static program of this host; in the image it is "/" and its base name
	Entrypoint []string          // the program alone if empty
	Cmd        []string          // arguments for containers that bring none
	Env        []string          // "NAME=value"
	Labels     map[string]string // engines give them to the containers, too
	User       string            // "1000" or "1000:1000"; root if empty
}

// Image is an image in a file.
type Image struct {
	Name string
	ID   string // "sha256:" and 64 hex digits: the digest of its configuration, which engines call its id
	File string // an OCI layout and a docker archive in one tar
}

// Write writes an image to a folder of its own, which goes when the test ends.
func Write(t stage.T, spec Spec) Image {
	t.Helper()
	if _, tag, _ := strings.Cut(filepath.Base(spec.Name), ":"); tag == "" {
		t.Fatalf("write an image: the name %q has no tag", spec.Name)
	}
	program, err := os.ReadFile(spec.Binary)
	if err != nil {
		t.Fatalf("write the image %s: %v", spec.Name, err)
	}
	layer, err := archive([]file{{strings.TrimPrefix(spec.path(), "/"), 0o755, program}})
	if err != nil {
		t.Fatalf("write the image %s: %v", spec.Name, err)
	}
	id, whole, err := spec.encode(layer)
	if err != nil {
		t.Fatalf("write the image %s: %v", spec.Name, err)
	}
	path := filepath.Join(stage.Folder(t), "image.tar")
	if err := os.WriteFile(path, whole, 0o644); err != nil {
		t.Fatalf("write the image %s: %v", spec.Name, err)
	}
	return Image{Name: spec.Name, ID: id, File: path}
}

// path is where the program is in the image.
func (s Spec) path() string { return "/" + filepath.Base(s.Binary) }

// object is JSON of a form that others have laid down.
type object map[string]any

// encode gives the image's id and the tar: index.json leads containerd and
// podman to the blobs, manifest.json leads docker to them.
func (s Spec) encode(layer []byte) (id string, whole []byte, err error) {
	config, err := json.Marshal(s.config(layer))
	if err != nil {
		return "", nil, err
	}
	manifest, err := json.Marshal(object{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        descriptor("application/vnd.oci.image.config.v1+json", config),
		"layers":        []object{descriptor("application/vnd.oci.image.layer.v1.tar", layer)},
	})
	if err != nil {
		return "", nil, err
	}
	entry := descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
	entry["annotations"] = object{"io.containerd.image.name": s.Name, "org.opencontainers.image.ref.name": s.Name}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []object{entry}})
	if err != nil {
		return "", nil, err
	}
	docker, err := json.Marshal([]object{{"Config": blob(config), "RepoTags": []string{s.Name}, "Layers": []string{blob(layer)}}})
	if err != nil {
		return "", nil, err
	}
	whole, err = archive([]file{
		{"oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		{"index.json", 0o644, index},
		{"manifest.json", 0o644, docker},
		{blob(manifest), 0o644, manifest},
		{blob(config), 0o644, config},
		{blob(layer), 0o644, layer},
	})
	return digest(config), whole, err
}

// config is the image's configuration.
func (s Spec) config(layer []byte) object {
	entrypoint := s.Entrypoint
	if len(entrypoint) == 0 {
		entrypoint = []string{s.path()}
	}
	return object{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config": object{"Entrypoint": entrypoint, "Cmd": s.Cmd, "Env": append([]string{"PATH=/"}, s.Env...),
			"Labels": s.Labels, "User": s.User},
		"rootfs":  object{"type": "layers", "diff_ids": []string{digest(layer)}},
		"history": []object{{"created_by": "e2e/stage/image"}},
	}
}

func descriptor(kind string, content []byte) object {
	return object{"mediaType": kind, "digest": digest(content), "size": len(content)}
}

func digest(content []byte) string { return "sha256:" + sum(content) }

// blob is where content lies in an OCI layout.
func blob(content []byte) string { return "blobs/sha256/" + sum(content) }

func sum(content []byte) string {
	hash := sha256.Sum256(content)
	return hex.EncodeToString(hash[:])
}

type file struct {
	name    string
	mode    int64
	content []byte
}

func archive(files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}
