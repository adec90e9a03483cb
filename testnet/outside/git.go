package outside

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Repos is a directory of bare git repositories that a go command finds under a
// host of its own, by way of git's insteadOf: no server is needed.
type Repos struct {
	dir  string
	host string // as in module paths: "example.test/acme"
}

// NewRepos makes repositories below dir that are known as host + "/<name>.git".
func NewRepos(dir, host string) (*Repos, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("git repositories: %w", err)
	}
	return &Repos{dir, host}, os.MkdirAll(dir, 0o777)
}

// Env is what a go command needs in its environment to find the repositories,
// next to GOPROXY=direct.
func (r *Repos) Env() []string {
	return []string{
		"GIT_CONFIG_COUNT=2",
		"GIT_CONFIG_KEY_0=url.file://" + r.dir + "/.insteadOf",
		"GIT_CONFIG_VALUE_0=https://" + r.host + "/",
		"GIT_CONFIG_KEY_1=protocol.file.allow", "GIT_CONFIG_VALUE_1=always",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0",
	}
}

// Module is the module path of the repository's root.
func (r *Repos) Module(name string) string { return r.host + "/" + name + ".git" }

// Repo is one repository: a bare one that is fetched from, and a working copy
// that commits are made in.
type Repo struct {
	bare, work string
	env        []string
	commits    int
}

// Create makes an empty repository.
func (r *Repos) Create(name string) (*Repo, error) {
	p := &Repo{
		bare: filepath.Join(r.dir, name+".git"), work: filepath.Join(r.dir, ".work", name),
		env: append(r.Env(), "PATH="+os.Getenv("PATH"), "HOME="+r.dir,
			"GIT_AUTHOR_NAME=A Developer", "GIT_AUTHOR_EMAIL=dev@example.test",
			"GIT_COMMITTER_NAME=A Developer", "GIT_COMMITTER_EMAIL=dev@example.test"),
	}
	if err := os.MkdirAll(p.work, 0o777); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"init", "-q", "--bare", "-b", "main", p.bare},
		{"init", "-q", "-b", "main", p.work},
		{"remote", "add", "origin", p.bare},
	} {
		if _, err := p.git(args...); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// Commit replaces the files of the current branch, commits and pushes them, and
// returns the commit's hash. Commit times follow each other by the hour.
func (p *Repo) Commit(files map[string]string) (string, error) {
	if _, err := p.git("rm", "-r", "-q", "--ignore-unmatch", "."); err != nil {
		return "", err
	}
	names := make([]string, 0, len(files))
	for name, content := range files {
		path := filepath.Join(p.work, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			return "", err
		}
		names = append(names, name)
	}
	sort.Strings(names)
	if _, err := p.git(append([]string{"add", "--"}, names...)...); err != nil {
		return "", err
	}
	p.commits++
	if _, err := p.git("commit", "-q", "--allow-empty", "-m", fmt.Sprintf("Change %d", p.commits)); err != nil {
		return "", err
	}
	hash, err := p.git("rev-parse", "HEAD")
	if err != nil {
		return "", err
	}
	_, err = p.git("push", "-q", "--force", "origin", "HEAD")
	return strings.TrimSpace(hash), err
}

// Tag puts a tag on the newest commit, moving it there if it exists: a forced
// push of a tag.
func (p *Repo) Tag(name string) error {
	if _, err := p.git("tag", "--force", name); err != nil {
		return err
	}
	_, err := p.git("push", "-q", "--force", "origin", "refs/tags/"+name)
	return err
}

// DeleteTag removes a tag.
func (p *Repo) DeleteTag(name string) error {
	_, err := p.git("push", "-q", "origin", ":refs/tags/"+name)
	return err
}

// Destroy removes the repository that is fetched from.
func (p *Repo) Destroy() error { return os.RemoveAll(p.bare) }

func (p *Repo) git(args ...string) (string, error) {
	at := Epoch.Add(time.Duration(p.commits) * time.Hour).Format(time.RFC3339)
	cmd := exec.Command("git", args...)
	cmd.Dir = p.work
	cmd.Env = append(p.env, "GIT_AUTHOR_DATE="+at, "GIT_COMMITTER_DATE="+at)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}
