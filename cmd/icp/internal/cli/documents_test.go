package cli

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/cmd/icp/internal/dev"
)

var (
	shellBlock = regexp.MustCompile("(?s)```sh\n(.*?)```")
	command    = regexp.MustCompile(`^(?:bin/)?icp ([^>|#]*)`)
)

// TestDocuments checks that every `icp` command that a page shows in a shell
// block is one: the command exists, and knows the flags and their values.
func TestDocuments(t *testing.T) {
	const top = "../../../../"
	pages := []string{top + "README.md", top + "SECURITY.md"}
	more, err := filepath.Glob(top + "docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, page := range append(pages, more...) {
		raw, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range shellBlock.FindAllStringSubmatch(string(raw), -1) {
			text := strings.ReplaceAll(block[1], "\\\n", " ")
			for line := range strings.Lines(text) {
				if match := command.FindStringSubmatch(line); match != nil {
					seen++
					checkShown(t, filepath.Base(page), strings.Fields(match[1]))
				}
			}
		}
	}
	if seen < 15 {
		t.Fatalf("only %d commands found: the check sees nothing", seen)
	}
}

func checkShown(t *testing.T, page string, args []string) {
	t.Helper()
	root := newRoot(&app{getenv: func(string) string { return "" }, output: asTable}, nil)
	root.AddCommand(dev.Command())
	found, rest, err := root.Find(args)
	if err == nil {
		err = found.ParseFlags(rest)
	}
	if err == nil {
		err = found.ValidateArgs(found.Flags().Args())
	}
	if err == nil {
		err = found.ValidateRequiredFlags()
	}
	if err == nil && found.HasSubCommands() {
		t.Errorf("%s shows %q, which only holds other commands", page, "icp "+strings.Join(args, " "))
	}
	if err != nil {
		t.Errorf("%s shows %q: %v", page, "icp "+strings.Join(args, " "), err)
	}
}

// TestArgumentOfAnothersCommand checks that a command that another package
// brings takes no argument unnoticed.
func TestArgumentOfAnothersCommand(t *testing.T) {
	var said strings.Builder
	code := Main(t.Context(), Env{Args: []string{"dev", "--dir", t.TempDir(), "extra"}, Getenv: os.Getenv,
		Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &said}, dev.Command())
	if code != 2 || !strings.Contains(said.String(), "it is used as: icp dev") {
		t.Errorf("exit status %d, %q", code, said.String())
	}
}
