// Package configtest holds what documents say about a program's configuration
// to the struct that its file is read into.
package configtest

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/authsec-ai/icp/internal/config"
)

// CheckPage checks that the section of the Markdown page at path under the given
// heading has one table row, "| `key` | default | … |", for each key of defaults
// (a struct with yaml tags), none for any other, and that each default that is
// not zero stands in its row.
func CheckPage(t *testing.T, path, heading string, defaults any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(raw), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %q", path, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	documented := map[string]string{}
	for _, row := range tableRow.FindAllStringSubmatch(section, -1) {
		if _, twice := documented[row[1]]; twice {
			t.Errorf("%s, %s: key %s is documented twice", path, heading, row[1])
		}
		documented[row[1]] = row[2]
	}
	keys := map[string]reflect.Value{}
	collect(keys, "", reflect.ValueOf(defaults))
	for key, value := range keys {
		text, ok := documented[key]
		switch {
		case !ok:
			t.Errorf("%s, %s: key %s is missing", path, heading, key)
		case !value.IsZero() && !shows(text, value):
			t.Errorf("%s, %s: key %s has the default %v, and the page says %q", path, heading, key, value, text)
		}
	}
	for key := range documented {
		if _, ok := keys[key]; !ok {
			t.Errorf("%s, %s: there is no key %s", path, heading, key)
		}
	}
}

var (
	tableRow = regexp.MustCompile("(?m)^\\| `([a-z_.\\[\\]]+)` \\| (.*?) \\|")
	inCode   = regexp.MustCompile("`([^`]+)`")
)

// collect adds every key of a struct, "section.key" for those of a section and
// "list[].key" for those of a list's items.
func collect(keys map[string]reflect.Value, prefix string, v reflect.Value) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag.Get("yaml")
		name, _, _ := strings.Cut(tag, ",")
		if name == "" || name == "-" {
			continue
		}
		field := v.Field(i)
		switch of := field.Type(); {
		case of.Kind() == reflect.Struct:
			collect(keys, prefix+name+".", field)
		case of.Kind() == reflect.Pointer && of.Elem().Kind() == reflect.Struct:
			collect(keys, prefix+name+".", reflect.New(of.Elem()).Elem())
		case of.Kind() == reflect.Slice && of.Elem().Kind() == reflect.Struct:
			collect(keys, prefix+name+"[].", reflect.New(of.Elem()).Elem())
		default:
			keys[prefix+name] = field
		}
	}
}

// shows reports whether one of the code spans in text is the value.
func shows(text string, value reflect.Value) bool {
	want := fmt.Sprint(value.Interface())
	for _, span := range inCode.FindAllStringSubmatch(text, -1) {
		if span[1] == want {
			return true
		}
		if d, isDuration := value.Interface().(time.Duration); isDuration {
			if got, err := time.ParseDuration(span[1]); err == nil && got == d {
				return true
			}
		}
	}
	return false
}

// CheckExample checks that the example file at path is a configuration: into is
// a pointer to the defaults, and holds the example afterwards.
func CheckExample(t *testing.T, path string, into any) {
	t.Helper()
	before := fmt.Sprintf("%+v", into)
	if err := config.Load(path, "ICP_NO_SUCH_PREFIX_", nil, into); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v", into) == before {
		t.Errorf("%s sets nothing that is not the default", path)
	}
}
