package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"

	"github.com/authsec-ai/icp/identity"
	"github.com/authsec-ai/icp/server/api/strictjson"
)

// body says what request body a route takes.
type body int

const (
	none        body = iota // none is read
	strict                  // JSON from people: an unknown field is an error
	curlDefault             // strict, also under the content type that curl sends unasked
	tolerant                // JSON from agents: unknown fields are ignored, so that versions can differ
	stranger                // tolerant, from those who have yet to say who they are
)

const (
	maxBodyBytes     = 1 << 20  // from people
	maxWireBytes     = 4 << 20  // from agents: 500 signing requests with their selectors
	maxStrangerBytes = 64 << 10 // from anybody: one signing request, and evidence
)

func (b body) limit() int64 {
	switch b {
	case tolerant:
		return maxWireBytes
	case stranger:
		return maxStrangerBytes
	}
	return maxBodyBytes
}

// ignoresUnknown reports whether fields and parameters that are not known count
// as those of a newer version.
func (b body) ignoresUnknown() bool { return b == tolerant || b == stranger }

// checkContentType accepts JSON, and requests that don't say what they are.
func (b body) checkContentType(header http.Header) error {
	if encoding := header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		return identity.Errorf(identity.Unsupported, "content encoding %q is not accepted; send the body uncompressed", identity.Clip(encoding))
	}
	contentType := header.Get("Content-Type")
	if contentType == "" {
		return nil
	}
	media, params, err := mime.ParseMediaType(contentType)
	charset := strings.ToLower(params["charset"])
	switch {
	case err == nil && media == "application/json" && (charset == "" || charset == "utf-8"):
		return nil
	case err == nil && media == "application/merge-patch+json":
		return nil
	case b == curlDefault && media == "application/x-www-form-urlencoded":
		return nil
	}
	return identity.Errorf(identity.Unsupported, "content type %q is not accepted; send application/json in UTF-8", identity.Clip(contentType))
}

// read gives a request's whole body, which must be within the limit.
func (b body) read(r *http.Request) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r.Body, b.limit()+1))
	if err != nil {
		return nil, &identity.Error{Code: identity.Invalid, Message: "body could not be read to its end", Err: err}
	}
	if int64(len(raw)) > b.limit() {
		return nil, identity.Errorf(identity.TooLarge, "body is over the limit of %d bytes", b.limit())
	}
	return raw, nil
}

// decode reads one JSON document into the struct that into points to.
func (b body) decode(raw []byte, into any) error {
	if b.ignoresUnknown() {
		return strictjson.DecodeKnown(raw, into)
	}
	return strictjson.Decode(raw, into)
}

// decodePatch reads what current becomes by the merge patch raw (RFC 7396) into
// the struct that into points to, which is of current's type and empty. encoding/json
// by itself would leave what is null as it was, which reads like a withdrawal.
func (b body) decodePatch(current any, raw []byte, into any) error {
	if err := b.decode(raw, reflect.New(reflect.TypeOf(current)).Interface()); err != nil {
		return err
	}
	document, err := json.Marshal(current)
	if err != nil {
		return fmt.Errorf("encode what is to be patched: %w", err)
	}
	target, err := readJSON(document)
	if err != nil {
		return err
	}
	patch, err := readJSON(raw)
	if err != nil {
		return err
	}
	if document, err = json.Marshal(merge(target, patch)); err != nil {
		return fmt.Errorf("encode what was patched: %w", err)
	}
	return b.decode(document, into)
}

// readJSON keeps numbers as they are written.
func readJSON(raw []byte) (v any, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("read a document that was read before: %w", err)
	}
	return v, nil
}

// merge is MergePatch of RFC 7396 section 2. It may change target.
func merge(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	object, ok := target.(map[string]any)
	if !ok {
		object = map[string]any{}
	}
	for name, value := range changes {
		if value == nil {
			delete(object, name)
			continue
		}
		object[name] = merge(object[name], value)
	}
	return object
}
