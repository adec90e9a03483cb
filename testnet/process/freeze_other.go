//go:build !unix

package process

import (
	"errors"
	"fmt"
)

// Freeze is of Unix only.
func (o *Office) Freeze() error {
	return fmt.Errorf("freeze a process: %w on this system", errors.ErrUnsupported)
}

// Thaw is of Unix only.
func (o *Office) Thaw() error { return o.Freeze() }
