// Stands before a crun older than 1.9, which refuses every OCI runtime specification but 1.0: peers write a later version into
// config.json, and have no setting for that. Overwrites the version, same length, and becomes crun.
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void rewrite(const char *bundle) {
    static const char key[] = "\"ociVersion\":";
    char path[PATH_MAX], head[256];
    snprintf(path, sizeof path, "%s/config.json", bundle);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    ssize_t length = pread(file, head, sizeof head - 1, 0);
    head[length < 0 ? 0 : length] = 0;
    char *found = strstr(head, key);
    if (found) {
        off_t at = found - head + (off_t)sizeof key - 1;
        at += (off_t)strspn(head + at, " ") + 1;
        if (pwrite(file, "1.0.2", 5, at) != 5)
            perror(path);
    }
    close(file);
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], "--bundle"))
            rewrite(argv[i + 1]);
    execv(CRUN, argv);
    perror(CRUN);
    return 127;
}
