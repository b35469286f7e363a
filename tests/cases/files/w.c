int warned(int n)
{
    int unused;
    if (n = 3)
        return 1;
}
