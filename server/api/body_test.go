package api

import (
	"reflect"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/server/api/strictjson"
)

// TestFieldNames keeps what package strictjson relies on: every field of a body
// that people write is named in its alphabet.
func TestFieldNames(t *testing.T) {
	for _, v := range []any{entryBody{}, policyBody{}, evaluateBody{}, joinTokenBody{}, apiTokenBody{}, tenantBody{}, settingsBody{}} {
		checkFieldNames(t, reflect.TypeOf(v))
	}
}

func checkFieldNames(t *testing.T, typ reflect.Type) {
	t.Helper()
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.Anonymous && (name == "" || strings.Trim(name, strictjson.FieldNameBytes) != "") {
			t.Errorf("%s.%s is named %q", typ, f.Name, name)
		}
		if f.Type.Kind() == reflect.Struct && (f.Anonymous || f.Type.PkgPath() == typ.PkgPath()) {
			checkFieldNames(t, f.Type)
		}
	}
}
