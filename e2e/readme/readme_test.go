package readme

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/authsec-ai/icp/e2e/devtest"
	"github.com/authsec-ai/icp/e2e/stage"
)

// folder is what the documents call the folder of icp dev.
const folder = "/tmp/icp-dev"

var (
	fence    = regexp.MustCompile("(?ms)^```([a-z]+(?: run)?)\n(.*?)^```$")
	startDev = regexp.MustCompile(`(?m)^bin/icp dev --dir ` + folder + `$`)
	makeLine = regexp.MustCompile(`(?m)^make ([a-z0-9-]+)$`)
	named    = regexp.MustCompile("`(?:bin/)?icp ((?:[a-z0-9]+[a-z0-9-]* ?)+)")
	targets  = regexp.MustCompile("(?:`|^ {4})make ([a-z0-9-]+)(?:`|$)")
)

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestREADME types the blocks one after the other, as one who reads on does.
func TestREADME(t *testing.T) {
	ran := runBlocks(t, "README.md", "sh", "python")
	if ran < 3 {
		t.Errorf("%d blocks were run; want to build and start, to try, and to use Python", ran)
	}
}

// TestDocs runs the blocks of the other documents that are marked.
func TestDocs(t *testing.T) {
	for _, path := range documents(t) {
		if filepath.Base(path) != "README.md" {
			t.Run(filepath.Base(path), func(t *testing.T) { runBlocks(t, path, "sh run") })
		}
	}
}

// documents lists what is written for readers.
func documents(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"*.md", "docs/*.md", "sdk/python/*.md"} {
		found, err := filepath.Glob(filepath.Join(stage.Root(t), pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			relative, err := filepath.Rel(stage.Root(t), path)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, relative)
		}
	}
	return all
}

// runBlocks runs the blocks of these kinds and gives their number.
func runBlocks(t *testing.T, document string, kinds ...string) int {
	t.Helper()
	dir := filepath.Join(stage.Folder(t), "dev")
	var shell strings.Builder // what was typed into the other terminal
	var dev *devtest.Dev
	ran := 0
	for _, block := range fence.FindAllStringSubmatch(read(t, filepath.Join(stage.Root(t), document)), -1) {
		kind, text := block[1], block[2]
		if !slices.Contains(kinds, kind) {
			continue
		}
		ran++
		if kind == "python" {
			python(t, strings.ReplaceAll(text, folder, dir))
			continue
		}
		for _, target := range makeLine.FindAllStringSubmatch(text, -1) {
			checkTarget(t, target[1]) // whoever runs this test has built already
		}
		text = makeLine.ReplaceAllString(text, "")
		if startDev.MatchString(text) && dev == nil {
			dev = devtest.StartOn(t, dir)
		}
		shell.WriteString(strings.ReplaceAll(startDev.ReplaceAllString(text, ""), folder, dir))
	}
	if strings.TrimSpace(shell.String()) != "" {
		cmd := exec.Command("/bin/sh", "-eux", "-c", shell.String())
		cmd.Dir = stage.Root(t)
		t.Logf("%s", stage.Output(t, cmd))
	}
	return ran
}

// python runs lines as the body of an async function.
func python(t *testing.T, text string) {
	t.Helper()
	var program strings.Builder
	program.WriteString("import asyncio, ssl\nasync def main():\n")
	for line := range strings.Lines(text) {
		program.WriteString("    " + line)
	}
	program.WriteString("    assert isinstance(context, ssl.SSLContext)\nasyncio.run(main())\n")
	root := stage.Root(t)
	cmd := exec.Command(stage.Find(t, "ICP_PYTHON", filepath.Join(root, ".work/venv/bin/python")), "-c", program.String())
	cmd.Env = append(os.Environ(), "PYTHONPATH="+filepath.Join(root, "sdk/python"), "PYTHONDONTWRITEBYTECODE=1")
	stage.Output(t, cmd)
}

func checkTarget(t *testing.T, target string) {
	t.Helper()
	cmd := exec.Command("make", "--dry-run", target)
	cmd.Dir = stage.Root(t)
	stage.Output(t, cmd)
}

// TestNamedCommands looks for every command and make target that a document
// names.
func TestNamedCommands(t *testing.T) {
	commands, makes := map[string]string{}, map[string]string{}
	for _, path := range documents(t) {
		text := read(t, filepath.Join(stage.Root(t), path))
		for _, match := range named.FindAllStringSubmatch(text, -1) {
			commands[strings.TrimSpace(match[1])] = path
		}
		for line := range strings.Lines(text) {
			for _, match := range targets.FindAllStringSubmatch(strings.TrimRight(line, "\n"), -1) {
				makes[match[1]] = path
			}
		}
	}
	if len(commands) == 0 || len(makes) == 0 {
		t.Fatal("no document names a command")
	}
	for command, path := range commands {
		t.Run("icp "+command, func(t *testing.T) {
			help := stage.Output(t, exec.Command(stage.Program(t, "icp"), append(strings.Fields(command), "--help")...))
			if !strings.Contains(help, fmt.Sprintf("Usage:\n  icp %s ", command)) && !strings.Contains(help, fmt.Sprintf("Usage:\n  icp %s\n", command)) {
				t.Errorf("%s names it; help knows only:\n%.300s", path, help)
			}
		})
	}
	for target := range makes {
		t.Run("make "+target, func(t *testing.T) { checkTarget(t, target) })
	}
}
