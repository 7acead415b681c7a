"""What every part of the kit uses: errors, files, parallel work, the device."""
