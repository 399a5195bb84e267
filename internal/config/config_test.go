package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

type settings struct {
	Listen string `yaml:"listen"`
	Server struct {
		URL     string        `yaml:"url"`
		Timeout time.Duration `yaml:"timeout"`
	} `yaml:"server"`
	Retries int      `yaml:"retries"`
	Verbose bool     `yaml:"verbose"`
	Hosts   []string `yaml:"hosts"`
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEnvironmentOverridesFileOverridesDefault(t *testing.T) {
	got := settings{Listen: "default", Retries: 1}
	path := write(t, "server:\n  url: https://file\n  timeout: 5s\nretries: 2\n")
	env := []string{"T_SERVER__URL=https://env", "T_RETRIES=3", "T_VERBOSE=true", "T_HOSTS=[a, b]", "OTHER=x"}
	if err := Load(path, "T_", env, &got); err != nil {
		t.Fatal(err)
	}
	want := settings{Listen: "default", Retries: 3, Verbose: true, Hosts: []string{"a", "b"}}
	want.Server.URL, want.Server.Timeout = "https://env", 5*time.Second
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestTextStaysText(t *testing.T) {
	for _, value := range []string{"a: b", "", "#not a comment", "null", "- x", "'quoted'", "postgres://u:p@h/db?a=b"} {
		var got settings
		if err := Load("", "T_", []string{"T_LISTEN=" + value}, &got); err != nil || got.Listen != value {
			t.Errorf("%q became %q, %v", value, got.Listen, err)
		}
	}
}

func TestUnknownKeysAreNamed(t *testing.T) {
	var got settings
	err := Load(write(t, "lisen: x\n"), "T_", nil, &got)
	if err == nil || !strings.Contains(err.Error(), "lisen") {
		t.Errorf("file: %v", err)
	}
	err = Load("", "T_", []string{"T_SERVER__ULR=x"}, &got)
	if err == nil || !strings.Contains(err.Error(), "T_SERVER__ULR") {
		t.Errorf("environment: %v", err)
	}
	if err := Load(filepath.Join(t.TempDir(), "absent"), "T_", nil, &got); err == nil {
		t.Error("a missing file passed")
	}
}
